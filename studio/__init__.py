"""`gesso studio`: a page on this machine on which a person generates pictures, and looks at those that are there."""

from argparse import SUPPRESS
from collections.abc import Sequence
from typing import Any

from gesso import progress
from gesso.flags import Parser, add_flags, path, read_flags
from gesso.generation.settings import ComputeSettings

PORT = 8601
DESCRIPTION = """\
Serves a page on this machine: type a caption, watch its candidates row by row, sorted by their scores; continue one
from its first rows, or a picture of your own; look at what `gesso generate` and `gesso evaluate` have written."""


def build_parser() -> Parser:
    parser = Parser("gesso studio", DESCRIPTION)
    models = parser.add_argument_group("models")

    def add(name: str, metavar: str, text: str, **more: Any) -> None:
        models.add_argument(name, metavar=metavar, default=SUPPRESS, help=text, **more)

    add(
        "--prior", "PATH", "a run of `gesso train prior`, or a bundle; without it the model that gesso ships", type=path
    )
    add("--dvae", "PATH", "the dVAE of the prior's codes; without it the one that the run had", type=path)
    add("--tokenizer", "PATH", "the prior's tokenizer; without it the one that the run had", type=path)
    ranker = "a run of `gesso train contrastive`, a model of open_clip, or none; without it the bundle's own, if any"
    add("--ranker", "NAME", ranker)
    add("--pretrained", "NAME", "weights of open_clip's model: a tag, or a file")
    parser.add_argument(
        "--generated",
        type=path,
        nargs="+",
        default=SUPPRESS,
        metavar="DIR",
        help="folders to look at: the --output of `gesso generate`, or of `gesso evaluate`",
    )
    parser.add_argument("--port", type=int, default=PORT, metavar="INT", help="port on 127.0.0.1; 0: any free port")
    add_flags(parser, "computing", ComputeSettings)
    return parser


def main(argv: Sequence[str]) -> int:
    """Serves the page until the user interrupts."""
    given = build_parser().parse_args(argv)
    settings = read_flags(given, ComputeSettings)
    from gesso.studio.folders import Folder

    folders = [Folder(each) for each in getattr(given, "generated", [])]
    progress.announce("loading torch")
    from gesso.studio.generator import open_generator
    from gesso.studio.runs import Runs
    from gesso.studio.server import Server

    generator = open_generator(vars(given), settings)
    runs = Runs(generator)
    try:
        with Server(given.port, runs, folders) as server:
            server.serve("Ctrl-C ends; what is drawn stays here until then")
    finally:
        runs.close()
    return 0
