"""`gesso review`: the page on which a person chooses the threshold, and the decision on disk. No Beam."""

import os
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gesso import storage
from gesso.errors import UserError
from gesso.flags import path

if TYPE_CHECKING:
    from gesso.dedup.decision import Decision
    from gesso.dedup.overlap import Overlap

PORT = 8600
DESCRIPTION = """Pairs of a reference and a training picture, the most similar first, on a page of this machine. The
page stands in DIR/review and opens without a server, too; what is decided on it is kept in DIR/decision.json."""


def main(argv: Sequence[str]) -> int:
    """`gesso review DIR`."""
    given = parser().parse_args(argv)
    from gesso.dedup import overlap
    from gesso.dedup.decision import DECISION
    from gesso.dedup.review import folder

    if not storage.is_local(given.directory):
        raise UserError(f"{given.directory} is elsewhere: copy it to this machine, where the page is shown")
    found = overlap.read(given.directory)
    decided, decides = current(found), given.threshold is not None or given.import_file is not None
    if decides:
        decided = settle(found, decided, given)
        print(storage.join(found.path, DECISION))
    if given.no_serve or not decides:
        target = folder.prepare(found, decided)
        tell_not_shown(target)
        print(storage.join(target, "index.html"))
        if not given.no_serve:
            serve(found, target, given)
    return 0


def parser() -> ArgumentParser:
    made = ArgumentParser("gesso review", description=DESCRIPTION, formatter_class=ArgumentDefaultsHelpFormatter)
    user = os.environ.get("USER") or os.environ.get("LOGNAME") or ""
    made.add_argument("directory", type=path, metavar="DIR", help="what `gesso match` was given as --output")
    made.add_argument("--port", type=int, default=PORT, metavar="INT", help="of 127.0.0.1; 0: any that is free")
    made.add_argument("--no-serve", action="store_true", help="write DIR/review and end")
    made.add_argument("--threshold", type=float, metavar="FLOAT", help="set the decision's threshold and end")
    made.add_argument(
        "--import", dest="import_file", type=path, metavar="FILE", help="take over an exported decision and end"
    )
    made.add_argument("--who", default=user, metavar="NAME", help="who decides")
    return made


def current(found: "Overlap") -> "Decision | None":
    """The decision so far. Raises UserError where it was made on other matches."""
    from gesso.dedup import decision

    path = storage.join(found.path, decision.DECISION)
    return decision.read(path, found) if storage.exists(path) else None


def settle(found: "Overlap", decided: "Decision | None", given: Namespace) -> "Decision":
    """Writes and returns the decision of the flags: the imported verdicts, else those that there are already."""
    from gesso.dedup import decision

    if given.import_file is not None:
        decided = decision.read(given.import_file, found)
    if given.threshold is not None:
        decided = decision.with_threshold(found, decided, given.threshold, given.who)
    assert decided is not None
    decision.write(storage.join(found.path, decision.DECISION), decided)
    return decided


def tell_not_shown(target: str) -> None:
    """A line for each series of pictures of which some could not be shown."""
    from gesso.dedup.review import folder

    for series, reasons in folder.not_shown(target).items():
        if reasons:
            parts = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
            print(f"{series}: pictures that could not be shown: {parts}; the page shows placeholders")


def serve(found: "Overlap", target: str, given: Namespace) -> None:
    """Until the user interrupts."""
    from gesso.dedup.review import server

    keeper = server.Keeper(found, target, given.who)
    with server.Server(given.port, target, keeper) as listening:
        print(f"{listening.url}  (Ctrl-C ends; every mark is kept at once)", flush=True)
        try:
            listening.serve_forever()
        except KeyboardInterrupt:
            print()
