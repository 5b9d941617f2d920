"""`gesso evaluate`: generated pictures against real ones, at radii of blur, with and without the overlap.

pictures ─ cut to S×S ─ blurred ─ 299×299 ─ Inception ─▶ features/KEY.npy, once
features of both sides ─▶ FID, KID, Inception Score, CLIP score, each with an interval ─▶ evaluation.json, .md, .png
"""

from argparse import SUPPRESS
from collections.abc import Sequence
from typing import Any

from gesso import progress, storage
from gesso.devices import check_device
from gesso.evaluation.settings import BLUR, EvaluationSettings, Run, radii
from gesso.flags import Parser, add_flags, path, read_flags
from gesso.lock import lock

COMMAND, KIND = "gesso evaluate", "evaluation"
DESCRIPTION = """\
Rates generated pictures against real ones: FID, Inception Score, KID and CLIP score with 95% intervals, with Gaussian
blur of each radius on both sides, once with all pictures and once without the overlap (DALL-E paper, arXiv 2102.12092,
section 3.1). Features are kept in the output: the same command again computes what is new.
"""


def build_parser() -> Parser:
    parser = Parser(COMMAND, DESCRIPTION)
    what = parser.add_argument_group("input and output")

    def add(name: str, text: str, **more: Any) -> None:
        what.add_argument(name, type=path, default=SUPPRESS, help=text, **more)

    pictures = "a folder of pictures, a split of an export, or other shards"
    add("--generated", f"the --output of `gesso generate`; or {pictures}", required=True, metavar="DIR")
    add("--reference", f"real pictures: {pictures}", required=True, metavar="DIR")
    add(
        "--inception",
        "FID's Inception weights, README.md names files; without it distances are of the ranker's embeddings",
        metavar="FILE",
    )
    add("--exclude", "coco_overlap.json of `gesso export`: references to leave out of half of the rows", metavar="FILE")
    add("--annotations", "captions of the reference in COCO's format, as captions_val2014.json", metavar="FILE")
    add("--output", "folder for the results; by default `evaluation` in --generated", metavar="DIR")
    rated = parser.add_argument_group("what is rated")

    def rate(name: str, text: str, **more: Any) -> None:
        rated.add_argument(name, default=SUPPRESS, help=text, **more)

    radii_text = f"standard deviations, pixels at --size; by default {' '.join(f'{each:g}' for each in BLUR)}"
    rate("--blur", radii_text, type=float, nargs="+", metavar="RADIUS")
    models = "a run of `gesso train contrastive`, a bundle, or a model of open_clip"
    without = "by default there is none, or without --inception the shipped one"
    rate("--ranker", f"model of the CLIP score: {models}; {without}", metavar="NAME")
    rate("--pretrained", "weights of an open_clip model: a tag or a file", metavar="TAG")
    add_flags(parser, "evaluation", EvaluationSettings)
    return parser


def parse(argv: Sequence[str]) -> Run:
    given = build_parser().parse_args(argv)
    settings = read_flags(given, EvaluationSettings)
    check_device(settings.device)
    names = ("generated", "reference", "inception", "exclude", "annotations", "ranker", "pretrained")
    named = {name: getattr(given, name, "") for name in names}
    output = getattr(given, "output", storage.join(given.generated, KIND))
    return Run(**named, output=output, radii=radii(getattr(given, "blur", BLUR)), settings=settings)


def main(argv: Sequence[str]) -> int:
    """`gesso evaluate`: prints the table and writes it with its record and chart."""
    run = parse(argv)
    progress.announce("loading torch")
    from gesso.dataset import kinds
    from gesso.evaluation import report
    from gesso.evaluation.evaluator import evaluate, open_sides

    kinds.check_output(run.output, COMMAND, KIND)
    sides = open_sides(run)
    with lock(run.output):
        record = evaluate(run, sides)
        report.write(run.output, record)
    print(report.table(record))
    for note in record["notes"]:
        print(note)
    print(storage.join(run.output, report.PAGE))
    return 0
