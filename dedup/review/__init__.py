"""`gesso review`: the page on which a person chooses the threshold, and the decision on disk. No Beam."""

import os
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gesso import storage
from gesso.errors import UserError
from gesso.flags import Parser, path

if TYPE_CHECKING:
    from gesso.dedup.decision import Decision
    from gesso.dedup.overlap import Overlap

PORT = 8600
DESCRIPTION = """Shows pairs of a reference and a training picture, the most similar first, in a web page on this
machine. The page is written to DIR/review and also opens as a file; the decision is saved in DIR/decision.json, and in
DIR/decision.draft.json as long as nobody's name is on it."""


def main(argv: Sequence[str]) -> int:
    """`gesso review DIR`."""
    given = build_parser().parse_args(argv)
    from gesso.dataset import kinds
    from gesso.dedup import decision, overlap
    from gesso.dedup.review import folder, suggestion

    if not storage.is_local(given.directory):
        raise UserError(f"{given.directory} is not on this machine: copy it here, where the page is shown")
    kinds.expect(given.directory, "gesso review", "matches")
    found = overlap.read(given.directory)
    decided = decision.read_latest(found)
    changes_decision = given.threshold is not None or given.import_file is not None
    if changes_decision:
        decided = new_decision(found, decided, given)
        print(decision.save(found, decided))
    if given.no_serve or not changes_decision:
        target = folder.prepare(found, decided)
        print_not_shown(target)
        if not changes_decision:
            print(suggestion.suggest(found))
            print_draft(found, decided)
        print(storage.join(target, "index.html"))
        if not given.no_serve:
            serve(found, target, given)
    return 0


def build_parser() -> Parser:
    made = Parser("gesso review", DESCRIPTION)
    user = os.environ.get("USER") or os.environ.get("LOGNAME") or ""
    made.add_argument("directory", type=path, metavar="DIR", help="the --output of `gesso match`")
    made.add_argument("--port", type=int, default=PORT, metavar="INT", help="port on 127.0.0.1; 0: any free port")
    made.add_argument("--no-serve", action="store_true", help="write DIR/review and exit")
    made.add_argument("--threshold", type=float, metavar="FLOAT", help="set the decision's threshold and exit")
    made.add_argument(
        "--import", type=path, dest="import_file", metavar="FILE", help="import an exported decision.json and exit"
    )
    made.add_argument("--who", default=user, metavar="NAME", help="name of who decides")
    return made


def new_decision(found: "Overlap", decided: "Decision | None", given: Namespace) -> "Decision":
    """The decision that --import and --threshold make; verdicts are kept, a draft's too, unless imported."""
    from gesso.dedup import decision

    if given.import_file is not None:
        decided = decision.read(given.import_file, found)
    if given.threshold is not None:
        decided = decision.with_threshold(found, decided, given.threshold, given.who)
    assert decided is not None
    return decided


def print_draft(found: "Overlap", decided: "Decision | None") -> None:
    from gesso.dedup.decision import DRAFT

    if decided and decided.is_draft:
        path = storage.join(found.path, DRAFT)
        print(f"{path}: {len(decided.overrides):,} verdicts, threshold {decided.threshold:g}, no name yet")


def print_not_shown(target: str) -> None:
    """Prints a line for references and one for samples where pictures could not be shown."""
    from gesso.dedup.review import folder

    for series, reasons in folder.not_shown(target).items():
        if reasons:
            parts = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
            print(f"{series}: pictures that could not be shown: {parts}; the page has placeholders")


def serve(found: "Overlap", target: str, given: Namespace) -> None:
    """Serves the page until the user interrupts."""
    from gesso.dedup.review import server

    store = server.DecisionStore(found, target, given.who)
    with server.Server(given.port, target, store) as listening:
        listening.serve("Ctrl-C ends; every verdict is saved at once")
