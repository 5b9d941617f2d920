"""What ties an output to its input: the content, by checksums; a path only hints where it was. Standard library.

    {"kind": "shards", "path": "../raw", "manifest_sha256": "1f0c…", "samples": 36}

The path is relative to the output's directory where both are near each other on this machine.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gesso import storage

Json = dict[str, Any]

PATHS = ("path", "embeddings", "shards")  # fields that hold a path where they hold a string
# Checksums that some outputs of earlier versions lack: where either side has none, the path decides.
LATER = ("sha256", "manifest_sha256", "files_sha256")
NEAR = 3  # directories that a relative path may go up
COUNTED = ("bytes", "samples", "pictures", "shards")  # numbers that a person can tell one content from another by


def hint(path: str, output: str) -> str:
    """A path as a file in `output` tells it: relative where both are local and near each other, else absolute."""
    path, output = storage.absolute(path), storage.absolute(output)
    if not (storage.is_local(path) and storage.is_local(output)):
        return path
    relative = os.path.relpath(path, output)
    near = os.path.commonpath([path, output]) != "/" and relative.split("/").count("..") <= NEAR
    return relative if near else path


def published(path: str, output: str) -> str:
    """The same for a file that goes out into the world: of a path that is not near, the last name alone."""
    shown = hint(path, output)
    return os.path.basename(shown) or shown if os.path.isabs(shown) else shown


def resolve(shown: str, output: str) -> str:
    """The path that a file in `output` tells, from the machine's root."""
    if not storage.is_local(shown) or os.path.isabs(storage.local(shown)):
        return shown
    beside = storage.absolute(storage.join(storage.absolute(output), shown))
    return beside if os.path.exists(beside) else os.path.normpath(os.path.join(_real(output), shown))


def with_paths(value: Any, tell: Callable[[str], str]) -> Any:
    """The value with every path in it replaced by `tell`'s result."""
    if isinstance(value, list):
        return [with_paths(item, tell) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: tell(item) if name in PATHS and isinstance(item, str) else with_paths(item, tell)
        for name, item in value.items()
    }


def same(old: Json, new: Json, output: str) -> bool:
    """Whether two records are of one content; where no checksum can be compared, whether they are of one place, too.

    `output`: the directory that relative paths start from.
    """
    names = [name for name in {**old, **new} if name != "path" and not (name in LATER and _unknown(name, old, new))]
    compared = any(name.endswith("sha256") and old.get(name) for name in names)
    alike = all(old.get(name) == new.get(name) for name in names)
    return alike and (compared or bool(_places(old["path"], output) & _places(new["path"], output)))


def differing(old: Sequence[Json], new: Sequence[Json], output: str) -> list[str]:
    """What is not the same among the inputs of an output, each in a few words; nothing where all is."""
    if len(old) == len(new) and all(same(*pair, output) for pair in zip(old, new, strict=True)):
        return []
    gone = [one for one in old if not any(same(one, other, output) for other in new)]
    added = [other for other in new if not any(same(one, other, output) for one in old)]
    paired = min(len(gone), len(added))
    words = [_changed(*pair) for pair in zip(gone, added, strict=False)]
    words += [f"{item['path']} was given, now it is not" for item in gone[paired:]]
    words += [f"{item['path']} is given, it was not" for item in added[paired:]]
    return words or ["the same in another order, or more than once"]


def _unknown(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return old.get(name) is None or new.get(name) is None


def _places(path: str, output: str) -> set[str]:
    """Where a path may lead: earlier versions took it from the directory that the command ran in."""
    if not storage.is_local(path):
        return {storage.absolute(path)}
    return {_real(path), os.path.realpath(os.path.join(_real(output), storage.local(path)))}


def _real(path: str) -> str:
    return os.path.realpath(storage.local(path))


def _changed(old: Json, new: Json) -> str:
    """`links.parquet is not the same file (1,234 bytes then, 2,345 now)`."""
    where = new["path"]
    if os.path.basename(old["path"]) != os.path.basename(new["path"]):
        where += f" in the place of {old['path']}"
    return f"{where} is not the same {_noun(new)} ({_detail(old, new)})"


def _noun(record: Json) -> str:
    if "kind" in record:
        return str(record["kind"])
    if "split" in record:
        return f"{record['split']} split"
    found = next((name for name in ("pictures", "shards", "bytes") if name in record), "embeddings")
    return "file" if found == "bytes" else found


def _detail(old: Json, new: Json) -> str:
    """The first number that differs, else the checksums."""
    changed = [name for name in new if not _unknown(name, old, new) and old[name] != new[name]]
    for name in COUNTED:
        if name in changed:
            return f"{old[name]:,} {name} then, {new[name]:,} now"
    for name in changed:
        if name.endswith("sha256"):
            return f"{name} {old[name][:12]}… then, {new[name][:12]}… now"
    return f"then in {old['path']}, without a checksum to know it by"
