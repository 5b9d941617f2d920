"""`gesso bundle`: what generation needs of several trainings in one folder to hand on; averaged weights in float16."""

from argparse import SUPPRESS
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from gesso import progress, storage
from gesso.dataset import kinds
from gesso.errors import UserError
from gesso.flags import Parser, path
from gesso.generation.settings import Sampling
from gesso.lock import lock

DESCRIPTION = """\
Writes a prior, the dVAE of its codes, its tokenizer and, if one is given, a ranker into one folder, for
`gesso generate --prior DIR`. Weights are averages of the training, in float16; nothing else of it is taken along.
"""


Json = dict[str, Any]

SAMPLING: dict[str, type] = {"temperature": float, "top_k": int, "top_p": float}


def build_parser() -> Parser:
    parser = Parser("gesso bundle", DESCRIPTION)

    def add(name: str, metavar: str, text: str, **more: Any) -> None:
        parser.add_argument(name, type=path, metavar=metavar, default=SUPPRESS, help=text, **more)

    add("--prior", "PATH", "a run of `gesso train prior`, or a checkpoint of it", required=True)
    add("--dvae", "PATH", "the dVAE of the prior's codes; without it the one that the run had")
    add("--tokenizer", "PATH", "the prior's tokenizer; without it the one that the run had")
    add("--ranker", "DIR", "a run of `gesso train contrastive` with the same tokenizer")
    add("--output", "DIR", "folder to write to", required=True)
    advice = "what `gesso generate` samples by where its own flags do not say"
    for name, kind in SAMPLING.items():
        parser.add_argument(f"--{name}", type=kind, metavar=kind.__name__.upper(), default=SUPPRESS, help=advice)
    return parser


def main(argv: Sequence[str]) -> int:
    """`gesso bundle`."""
    given = vars(build_parser().parse_args(argv))
    kinds.expect(given["prior"], "gesso bundle --prior", "prior")
    kinds.check_output(given["output"], "gesso bundle", "bundle")
    sampling = {name: given[name] for name in SAMPLING if name in given}
    Sampling(**sampling)  # raises UserError for values that are none
    progress.announce("loading torch and the models")
    with lock(given["output"]):
        parts = (given.get(name, "") for name in ("prior", "dvae", "tokenizer", "ranker"))
        size = write(given["output"], *parts, sampling=sampling)
    print(f"{given['output']}: {size / 2**20:,.1f} MiB; `gesso generate --prior {given['output']}` draws with it")
    return 0


def write(output: str, prior: str, dvae: str, tokenizer: str, ranker: str, *, sampling: Json) -> int:
    """Returns how many bytes are in the folder. Raises UserError where the parts do not fit each other."""
    from gesso.generation import bundle_files
    from gesso.generation.layout import DVAE_WEIGHTS, PRIOR_WEIGHTS, RANKER_WEIGHTS
    from gesso.generation.models import of_run
    from gesso.training.tokenizer.settings import FILE, file_of

    opened = of_run(prior, dvae, tokenizer)
    files = {
        PRIOR_WEIGHTS: bundle_files.packed(opened.prior),
        DVAE_WEIGHTS: bundle_files.packed(opened.dvae),
        FILE: storage.read(file_of(opened.identity["tokenizer"]["path"])),
    }
    if ranker:
        files[RANKER_WEIGHTS] = ranker_file(ranker, opened.identity["tokenizer"])
    config = {**asdict(opened.prior.config), "tokens": opened.prior.config.tokens._asdict()}
    described = {"prior": {**config, "precision": opened.trained_in}, "dvae": asdict(opened.dvae.config)}
    sources = {name: each["sha256"] for name, each in opened.identity.items()}
    bundle_files.write(output, files, {**described, "sampling": sampling, "made_of": sources})
    return sum(map(len, files.values()))


def ranker_file(path: str, tokenizer: dict[str, str]) -> bytes:
    """The ranker's safetensors. Raises UserError where it reads captions by another tokenizer."""
    from gesso.training.contrastive import weights

    opened = weights.open_contrastive(path)
    if opened.tokenizer_sha256 != tokenizer["sha256"]:
        raise UserError(
            f"--ranker {path} has another tokenizer than the prior ({tokenizer['path']}), and a bundle has one: "
            "train it with that"
        )
    return weights.packed(opened)
