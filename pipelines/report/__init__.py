"""`gesso report`: a dataset's content, or a training's progress, as one self-contained page. No torch."""

from collections.abc import Sequence

from gesso import storage
from gesso.dataset import kinds
from gesso.errors import UserError
from gesso.flags import Parser, at_least, path

PICTURES = 60
# Kinds without a page, and what shows them.
ELSEWHERE = {
    "embeddings": "`gesso match --embeddings {}` searches them, `gesso review` shows what it finds",
    "matches": "`gesso review {}` shows them",
    "repeats": "`gesso export --drop {}` takes them, and the page of its output counts what they drop",
    "tokenizer": "{}/tokenizer.json is all that there is",
    "bundle": "`gesso generate --prior {}` draws with it",
    "generated": "{}/contact_sheet.png shows them",
    "detector": "`tensorboard --logdir {}` shows its curves, `gesso status` how far it is",
}


def main(argv: Sequence[str]) -> int:
    """`gesso report DIR`."""
    given = build_parser().parse_args(argv)
    at_least(0, pictures=given.pictures)
    print(write(given.directory, given.output, given.pictures))
    return 0


def write(directory: str, output: str | None, pictures: int) -> str:
    """Writes the page and returns its path; a training's page is made by gesso.training.report.

    A folder that is no output but holds some gets a page about all of them.
    """
    if kinds.recognise(directory) is None and project_outputs(directory):
        from gesso.pipelines.report import project_page

        return written(output or storage.join(directory, "report.html"), project_page.render(directory))
    path, kind = kinds.find(directory)
    if kind.name in ELSEWHERE:
        raise UserError(f"`gesso report` has no page for {kind.text}: {ELSEWHERE[kind.name].format(path)}")
    if kind.name in kinds.TRAININGS:
        from gesso.training import report as training_report

        return training_report.report(path, output)
    from gesso.pipelines.report import pages

    text = {"export": pages.export, "tokens": pages.tokens}.get(kind.name, pages.collection)(path, pictures)
    return written(output or storage.join(path, "report.html"), text)


def project_outputs(directory: str) -> bool:
    """Whether some folder in it is an output of gesso's."""
    return any(kinds.recognise(path) for path in storage.folders(directory))


def written(target: str, text: str) -> str:
    with storage.write_whole(target) as stream:
        stream.write(text.encode("utf-8", "replace"))
    return target


def build_parser() -> Parser:
    parser = Parser(
        "gesso report",
        "Writes a self-contained HTML page about a dataset's content, a training's progress, or a folder of outputs.",
    )
    made = "`gesso collect`, `index`, `export`, `encode`, `train dvae`, `train prior` or `train contrastive`"
    parser.add_argument("directory", type=path, help=f"the --output of {made}, or a folder that holds several")
    parser.add_argument(
        "--output", type=path, metavar="FILE", help="file to write the page to; DIR/report.html if not given"
    )
    parser.add_argument("--pictures", type=int, default=PICTURES, metavar="INT", help="number of kept pictures to show")
    return parser
