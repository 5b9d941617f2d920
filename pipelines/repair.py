"""`gesso verify --repair`: removes what is damaged, so that the command that made it makes it again. No Beam.

    collection, img2dataset   all files of a damaged shard
    index                     likewise, of a tar that it unpacked; never a tar of others
    embeddings, tokens        likewise of a block
    export                    a damaged tar; all files where rows are damaged, which are planned together
    matches, repeats          the damaged file
    dvae, prior, tokenizer, detector   the damaged checkpoint or weights
    generated, bundle         the damaged file, and what says that it is there

With them goes the manifest, which is written last and again. What cannot be made again is left and named.
"""

import os
import re
import sys
from collections.abc import Iterable
from typing import NamedTuple

from gesso import storage
from gesso.dataset import index
from gesso.dataset.kinds import RUN, Kind
from gesso.dataset.layout import CARD, DROPPED, LEFT_OUT, MANIFEST, PLAN, SPLITS
from gesso.errors import UserError
from gesso.generation.layout import GENERATED, MODEL, RECORD
from gesso.lock import lock
from gesso.pipelines import verify_export, verify_run
from gesso.training.layout import CHECKPOINTS

NUMBER = re.compile(r"(\d{5,})[._]")
UNFINISHED = "unfinished"  # how the line begins that tells of no damage
PAGE = "report.html"
SHOWN = 20  # names that are listed


class Removal(NamedTuple):
    """The names of the files to remove, and the problems that this does not mend."""

    names: frozenset[str]
    left: list[str]


def check_flags(repair: bool, yes: bool) -> None:
    """Raises UserError where nobody can be asked, and nobody has said yes."""
    if yes and not repair:
        raise UserError("--yes is for --repair: give both, or none")
    if repair and not yes and not sys.stdin.isatty():
        raise UserError("--repair asks before it removes anything, and there is no terminal: give --yes as well")


def repair(path: str, kind: Kind, problems: list[str], yes: bool) -> int:
    """Removes what is damaged, after a yes; 0 where that mends all, 1 where not."""
    damaged = [problem for problem in problems if not problem.startswith(UNFINISHED)]
    removal = plan(path, kind, damaged)
    for problem in removal.left:
        print(f"cannot be mended here: {problem}")
    again = "img2dataset in its incremental mode" if kind.name == "img2dataset" else f"`{kind.command}`"
    if not removal.names:
        print(f"nothing to remove{'' if damaged else f': the same {again} goes on'}")
        return 1
    print(f"to be removed from {path}: {listed(sorted(removal.names, key=order))}")
    if not yes and not confirmed(len(removal.names)):
        print("nothing was removed")
        return 1
    remove(path, removal.names)
    print(f"removed: {files(len(removal.names))}; the same {again} with --output {path} makes them again")
    return 1 if removal.left else 0


def plan(path: str, kind: Kind, problems: list[str]) -> Removal:
    """What to remove; a problem begins with the name of its file."""
    present = verify_export.all_sizes(path).keys()
    names, left = set[str](), []
    for problem in problems:
        found = files_to_remove(path, kind, problem.partition(": ")[0], present)
        names |= found
        left += [] if found else [problem]
    return Removal(frozenset(names | ({MANIFEST} & present if names else set())), left)


def files_to_remove(path: str, kind: Kind, name: str, present: Iterable[str]) -> set[str]:
    """The files that go with a damaged one, of those that are there; none where they cannot be made again."""
    there = set(present)
    if kind.name in verify_run.KINDS:
        return of_training(path, kind, name)
    if kind.name == "generated":
        return {name, GENERATED, *([f"{name.rpartition('/')[0]}/{RECORD}"] if "/" in name else [])}
    if kind.name == "bundle":
        return {name, MODEL}
    if name == MANIFEST or kind.name in ("matches", "repeats"):
        return {name, MANIFEST} & there
    if kind.name == "export":
        return of_export(name, there)
    if kind.name == "index" and name.endswith(".tar"):
        return of_tar(path, name, there)
    shard = shard_of(name)
    return {other for other in there if other == MANIFEST or shard_of(other) == shard} if shard else set()


def of_tar(path: str, name: str, there: set[str]) -> set[str]:
    """Of an unpacked tar the files of its shard with it; none of a tar that others wrote."""
    tars = index.read_tars(path) if not os.path.isabs(name) and "://" not in name else {}
    whole = storage.absolute(storage.join(path, name))
    number = next((number for number, tar in tars.items() if tar.path == whole), None)
    return {name, *(other for other in there if shard_of(other) == ("", number))} if number is not None else set()


def of_export(name: str, there: set[str]) -> set[str]:
    """Of a shard its tar and marker; every file where rows, which are planned together, or the plan are damaged."""
    if name in (CARD, LEFT_OUT):
        return {name, MANIFEST} & there
    ours = {other for other in there if shard_of(other) or other in (CARD, LEFT_OUT, DROPPED, PLAN, MANIFEST, PAGE)}
    shard = shard_of(name)
    if name in (DROPPED, PLAN) or (shard and name.endswith(".parquet")):
        return ours
    of_shard = {other for other in ours if shard_of(other) == shard and not other.endswith(".parquet")}
    return of_shard | ({MANIFEST} & there) if shard else set()


def of_training(path: str, kind: Kind, name: str) -> set[str]:
    """A checkpoint, or the weights that are written last; a tokenizer is made again from its beginning."""
    if kind.name == "tokenizer":
        return {item for item in (RUN, "tokenizer.json") if storage.exists(storage.join(path, item))}
    return {name} if kind.name == "detector" or name.startswith(f"{CHECKPOINTS}/") else set()


def shard_of(name: str) -> tuple[str, int] | None:
    """The split, if there are some, and the number of the shard that a file belongs to; None for others."""
    folder, _, base = name.rpartition("/")
    match = NUMBER.search(base)
    return (folder if folder in SPLITS else "", int(match[1])) if match and folder != "plan" else None


def listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return " ".join(names[:SHOWN]) + more


def files(number: int) -> str:
    return "1 file" if number == 1 else f"{number:,} files"


def confirmed(number: int) -> bool:
    """Whether the user says yes."""
    try:
        return input(f"remove {files(number)}? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def remove(path: str, names: Iterable[str]) -> None:
    """Removes files, what says that they are whole first, so that an interrupted removal is an unfinished output."""
    with lock(path):
        for name in sorted(names, key=order):
            storage.remove(storage.join(path, name))


def order(name: str) -> tuple[int, str]:
    """Manifest, markers, all others, the plan."""
    rank = {MANIFEST: 0, GENERATED: 0, MODEL: 0, PLAN: 3}.get(name, 1 if name.endswith(("_stats.json", RECORD)) else 2)
    return rank, name
