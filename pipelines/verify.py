"""`gesso verify`: every file of a dataset against its manifest, its markers and its neighbours. No Beam, no pictures.

A finished dataset is held against json, an unfinished one's committed shards against their own markers, and
shards that img2dataset wrote by itself, which carry no checksums, against their rows and statistics. Of an export
export_check.py tells; of embeddings, matches, repeats and tokens every file that the manifest lists is read.
"""

import hashlib
import json
import os
import re
import sys
import tarfile
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby, pairwise
from typing import IO, Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from gesso import storage
from gesso.dataset import layout
from gesso.dataset.layout import former_rejected_name, marker_name, plan_name, rejected_name
from gesso.dataset.manifest import MARKER as MARKER_NAME
from gesso.dataset.manifest import READERS, funnel, is_collection, sizes
from gesso.dataset.records import FAILED_TO_DOWNLOAD, FAILED_TO_RESIZE, REJECTED, SUCCESS
from gesso.errors import UserError
from gesso.pipelines import verify_export

T = TypeVar("T")
Json = dict[str, Any]
Advance = Callable[[int], None]  # is told a number of bytes

THREADS = min(16, 4 * (os.cpu_count() or 1))  # hashing leaves the interpreter lock; the rest waits for disks
BLOCK = 1 << 20  # bytes read at a time
ROWS = 8192
SAMPLE = ("jpg", "txt", "json")
# What pyarrow is seen to raise on damaged files; many of its own are ValueErrors, and so is text that is none.
BROKEN_PARQUET = (pa.ArrowException, ValueError, OSError)
REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE)
SHARD_FILE = re.compile(r"[^/]+\.(tar|parquet)|rejected/[^/]+\.(thumbnails|tar)|\d{5,}_stats\.json")
NAMED = 10  # missing shards that are named
# The fields that a file must have, by its kind; those of COUNTS hold numbers alone.
COUNTS = frozenset({"status_dict", "counted_only", "funnel"})
ENTRY = {"bytes": int, "sha256": str}
MARKER = {
    "count": int,
    "successes": int,
    FAILED_TO_DOWNLOAD: int,
    FAILED_TO_RESIZE: int,
    "status_dict": dict,
}
OUR_MARKER = {**MARKER, REJECTED: int, "files": dict}
MANIFEST = {"shards": list, "samples": int, "funnel": dict, "settings": dict, "input": list}
SHARD = {"index": int, "count": int, "successes": int, "files": dict}
PLAN = {"shards": int, "rows_read": int, "counted_only": dict, "settings": dict, "input": list}


class Damage(Exception):
    """What is wrong with a file, as one line without its name."""


class Rows(NamedTuple):
    """What a shard's parquet tells."""

    keys: list[str]  # of the successes
    statuses: Counter[str]
    reasons: Counter[str]


class Shard(NamedTuple):
    """A shard and what is said about it; `files` is None where img2dataset wrote it, without checksums."""

    stem: str
    source: str  # the file that says so
    files: Json | None
    marker: Json | None  # None: damaged, and reported

    @property
    def marker_name(self) -> str:
        return f"{self.stem}_stats.json"

    @property
    def names(self) -> tuple[str, ...]:
        ours = (self._rejected,) if self.files is not None else ()
        return (f"{self.stem}.tar", f"{self.stem}.parquet", *ours)

    @property
    def _rejected(self) -> str:
        former = former_rejected_name(int(self.stem))
        return former if former in (self.files or {}) else rejected_name(int(self.stem))


class Reading:
    """A stream's read side that counts and hashes what passes, a block at a time."""

    def __init__(self, stream: IO[bytes], advance: Advance) -> None:
        self._stream = stream
        self._advance = advance
        self._sha256 = hashlib.sha256()
        self.bytes = 0

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._sha256.update(data)
        self.bytes += len(data)
        self._advance(len(data))
        return data

    def skip(self, size: int) -> bool:
        """Reads on; False where the stream ends before."""
        while size > 0:
            passed = len(self.read(min(size, BLOCK)))
            if not passed:
                return False
            size -= passed
        return True

    def rest(self) -> Iterator[bytes]:
        while data := self.read(BLOCK):
            yield data

    def sha256(self) -> str:
        """Of the whole file, which is read to its end."""
        for _ in self.rest():
            pass
        return self._sha256.hexdigest()


class Checker:
    """Checks the shards of one directory; keeps what it finds as lines. Its methods may run on any thread."""

    def __init__(self, output: str, present: dict[str, int], advance: Advance) -> None:
        self._output = output
        self._present = present
        self._advance = advance

    def shard(self, shard: Shard) -> list[str]:
        """Everything wrong with a shard."""
        problems: list[str] = []
        tar, rows, *rejected = shard.names
        kept = self._try(problems, self._tar, tar, shard)
        read = self._try(problems, self._rows, rows, shard)
        for name in rejected:
            self._try(problems, self._tar, name, shard)
        if kept is not None and read is not None:
            problems += mismatch(shard, kept, read)
        if read is not None and shard.marker is not None:
            problems += miscount(shard, shard.marker, read)
        return problems

    def _try(self, problems: list[str], check: Callable[[str, Shard], T], name: str, shard: Shard) -> T | None:
        """What the check returns; None where it finds damage, which is added."""
        try:
            return check(name, shard)
        except Damage as damage:
            problems.append(f"{name}: {damage}")
        except OSError as error:
            problems.append(f"{name}: unreadable: {error}")
        return None

    def _tar(self, name: str, shard: Shard) -> list[str]:
        """The keys of a tar's samples. Raises Damage."""
        entry = self._expected(name, shard)
        with storage.open_input(storage.join(self._output, name)) as stream:
            reading = Reading(stream, self._advance)
            try:
                keys = list(samples(members(reading), shard.files is not None))
            except Damage:
                check_sha256(reading, entry, shard)
                raise
            check_sha256(reading, entry, shard)
        return keys

    def _rows(self, name: str, shard: Shard) -> Rows:
        """What the rows tell. Raises Damage."""
        entry = self._expected(name, shard)
        with storage.open_input(storage.join(self._output, name)) as stream:
            check_sha256(Reading(stream, self._advance), entry, shard)
            stream.seek(0)
            try:
                return read_rows(stream, shard.files is not None)
            except BROKEN_PARQUET as error:
                raise Damage(f"no parquet: {first_line(error)}") from error

    def _expected(self, name: str, shard: Shard) -> Json | None:
        """The file's size and checksum as they should be, the size checked. Raises Damage."""
        if name not in self._present:
            raise Damage("missing")
        if shard.files is None:
            return None
        entry: Json = shard.files.get(name, {})
        if not has_shape(entry, ENTRY):
            raise Damage(f"not in {shard.source}")
        if entry["bytes"] != self._present[name]:
            raise Damage(f"{self._present[name]:,} bytes, in {shard.source} {entry['bytes']:,}")
        return entry


def check_sha256(reading: Reading, entry: Json | None, shard: Shard) -> None:
    found = reading.sha256()
    if entry and found != entry["sha256"]:
        raise Damage(f"sha256 differs from {shard.source}")


def members(reading: Reading) -> Iterator[str]:
    """The names of a tar's files. Raises Damage unless it is whole to its end."""
    while True:
        offset = reading.bytes
        block = reading.read(tarfile.BLOCKSIZE)
        if block == bytes(tarfile.BLOCKSIZE):
            break
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise Damage(f"no tar from byte {offset:,} on: {error}") from error
        if not reading.skip(-(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE):
            raise Damage(f"cut off in {info.name}")
        if info.type in REGULAR:  # others carry what a name's header has no room for
            yield info.name
    check_end(reading)


def check_end(reading: Reading) -> None:
    """A tar ends with two blocks of zeros or more, and nothing else. Raises Damage."""
    begun = reading.bytes
    if any(block.strip(b"\0") for block in reading.rest()):
        raise Damage(f"holds more behind its end at byte {begun:,}")
    if reading.bytes - begun < tarfile.BLOCKSIZE:
        raise Damage("cut off in its end")


def samples(names: Iterable[str], ours: bool) -> Iterator[str]:
    """The keys of samples whose files stand side by side; in rising order where `ours`. Raises Damage."""
    last = ""
    for key, group in groupby(names, lambda name: name.partition(".")[0]):
        kinds = tuple(name.partition(".")[2] for name in group)
        if not (kinds == SAMPLE if ours else "json" in kinds and len(set(kinds)) == len(kinds) > 1):
            raise Damage(f"sample {key} is {', '.join(kinds)}")
        if ours and key <= last:
            raise Damage(f"sample {key} stands behind {last}")
        last = key
        yield key


def read_rows(stream: IO[bytes], ours: bool) -> Rows:
    """Keys, statuses and reasons of a shard's rows, a bounded number at a time. Raises Damage."""
    parquet = pq.ParquetFile(stream)
    columns = ["key", "status", *(["reason"] if ours else [])]
    for name in columns:
        if name not in parquet.schema_arrow.names or parquet.schema_arrow.field(name).type != pa.string():
            raise Damage(f"has no column {name} of text")
    rows, last = Rows([], Counter(), Counter()), ""
    for batch in parquet.iter_batches(ROWS, columns=columns):
        if batch["key"].null_count:
            raise Damage("has a row without a key")
        keys, statuses = batch["key"].to_pylist(), batch["status"].to_pylist()
        if ours and not all(before < after for before, after in pairwise([last, *keys])):
            raise Damage("rows are not in the order of their keys")
        last = [last, *keys][-1]
        rows.keys.extend(key for key, status in zip(keys, statuses, strict=True) if status == SUCCESS)
        rows.statuses.update(statuses)
        rows.reasons.update(reason or SUCCESS for reason in (batch["reason"].to_pylist() if ours else ()))
    return rows


def mismatch(shard: Shard, kept: list[str], rows: Rows) -> list[str]:
    """Whether the tar holds the samples that its rows name."""
    tar, parquet, *_ = shard.names
    named, found = Counter(rows.keys), Counter(kept)
    absent, unknown = (named - found).total(), (found - named).total()
    if not absent and not unknown:
        return []
    return [f"{tar}: {absent:,} of {parquet}'s samples are missing, {unknown:,} are not among its successes"]


def miscount(shard: Shard, marker: Json, rows: Rows) -> list[str]:
    """Whether the marker counts what the rows hold."""
    name, parquet = shard.marker_name, shard.names[1]
    counted: Json = {"count": rows.statuses.total(), "successes": rows.statuses[SUCCESS]}
    counted |= {status: rows.statuses[status] for status in (FAILED_TO_DOWNLOAD, FAILED_TO_RESIZE)}
    if shard.files is not None:
        counted |= {REJECTED: rows.statuses[REJECTED], "status_dict": dict(rows.reasons)}
    wrong = (
        (field, "other reasons" if field == "status_dict" else f"{number:,}, not {marker[field]:,}")
        for field, number in counted.items()
        if marker[field] != number
    )
    return [f"{name}: {field}: {parquet} has {what}" for field, what in wrong]


def quiet(number: int) -> None:
    """Where nobody watches."""


def verify(output: str, begin: Advance = quiet, advance: Advance = quiet) -> list[str]:
    """A line for everything that is wrong with the dataset; none where it is whole.

    `begin` is told how many bytes there are to read, `advance` how many more have been, on any thread. Raises
    UserError where there is no dataset.
    """
    present = sizes(output)
    problems: list[str] = []
    if verify_export.is_export(output, present):
        return verify_export.verify(output, begin, advance, THREADS)
    if not is_collection(output, present):
        return listed(output, present, begin, advance)
    if layout.MANIFEST in present:
        shards = finished(output, present, problems)
    elif layout.PLAN in present:
        shards = unfinished(output, present, problems)
    elif any(map(MARKER_NAME.fullmatch, present)):
        shards = foreign(output, present, problems)
    else:
        raise UserError(f"{output} holds no dataset: give the --output of a `gesso collect`, or img2dataset's folder")
    begin(sum(present.get(name, 0) for shard in shards for name in shard.names))
    checker = Checker(output, present, advance)
    with ThreadPoolExecutor(THREADS) as pool:
        for found in pool.map(checker.shard, shards):
            problems += found
    return problems


def finished(output: str, present: dict[str, int], problems: list[str]) -> list[Shard]:
    """The manifest's shards; adds what is wrong with the small files."""
    manifest = read_object(output, layout.MANIFEST, present, MANIFEST, problems)
    plan = read_object(output, layout.PLAN, present, PLAN, problems)
    if manifest is None:
        return [shard for shard in own_shards(output, present, problems) if shard.marker]
    shards = manifest["shards"]
    if not all(has_shape(entry, SHARD) for entry in shards) or len({entry["index"] for entry in shards}) < len(shards):
        problems.append(f"{layout.MANIFEST}: its shards have not the form that gesso writes")
        return []
    names = [marker_name(entry["index"]) for entry in shards]
    markers = read_markers(output, names, present, OUR_MARKER, problems)
    problems += differing(manifest, markers)
    if plan:
        problems += misfits(manifest, plan, markers)
    found = [
        Shard(f"{entry['index']:05d}", layout.MANIFEST, entry["files"], markers[name])
        for entry, name in zip(shards, names, strict=True)
    ]
    problems += [f"{name}: not in {layout.MANIFEST}" for name in strays(present, found)]
    return found


def differing(manifest: Json, markers: dict[str, Json | None]) -> list[str]:
    """Markers that say something else than the manifest."""
    told = (
        (name, field)
        for entry, (name, marker) in zip(manifest["shards"], markers.items(), strict=True)
        for field in ("count", "successes", "files")
        if marker and marker[field] != entry[field]
    )
    return [f"{name}: {field} differs from {layout.MANIFEST}" for name, field in told]


def misfits(manifest: Json, plan: Json, markers: dict[str, Json | None]) -> list[str]:
    """What the manifest says otherwise than the plan and the markers together."""
    expected: Json = {"settings": plan["settings"], "input": plan["input"]}
    whole = [marker for marker in markers.values() if marker]
    if len(whole) == len(markers):
        expected |= {"samples": sum(marker["successes"] for marker in whole), "funnel": funnel(plan, whole)}
    told = (field for field, value in expected.items() if manifest[field] != value)
    problems = [f"{layout.MANIFEST}: {field} differs from {layout.PLAN} and the markers" for field in told]
    indexes = [entry["index"] for entry in manifest["shards"]]
    if indexes != list(range(plan["shards"])):
        problems.append(f"{layout.MANIFEST}: lists {len(indexes):,} shards, {layout.PLAN} has {plan['shards']:,}")
    read, *ended = expected.get("funnel", {"rows_read": 0}).values()
    if read != sum(ended):
        problems.append(f"the funnel does not add up: {read:,} rows read, {sum(ended):,} accounted for")
    return problems


def unfinished(output: str, present: dict[str, int], problems: list[str]) -> list[Shard]:
    """The committed shards of a collection without a manifest; adds which are missing."""
    plan = read_object(output, layout.PLAN, present, PLAN, problems)
    shards = own_shards(output, present, problems)
    if plan:
        missing = [index for index in range(plan["shards"]) if marker_name(index) not in present]
        planned = {name.partition(".")[0] for name in storage.sizes(storage.join(output, "plan"))}
        problems += [f"{plan_name(index)}: missing" for index in missing if f"{index:05d}" not in planned]
        problems.append(lacking(missing, plan["shards"]))
    return [shard for shard in shards if shard.marker]


def lacking(missing: list[int], total: int) -> str:
    if not missing:
        return f"unfinished: {layout.MANIFEST} is missing; the same `gesso collect` writes it"
    named = " ".join(f"{index:05d}" for index in missing[:NAMED]) + (" …" if len(missing) > NAMED else "")
    text = f"unfinished: {len(missing):,} of {total:,} shards are missing: {named}"
    return f"{text}; the same `gesso collect` goes on"


def own_shards(output: str, present: dict[str, int], problems: list[str]) -> list[Shard]:
    """Shards by their markers, which say what they hold."""
    names = [name for name in sorted(present) if MARKER_NAME.fullmatch(name)]
    markers = read_markers(output, names, present, OUR_MARKER, problems)
    return [
        Shard(name.removesuffix("_stats.json"), name, marker["files"] if marker else {}, marker)
        for name, marker in markers.items()
    ]


def foreign(output: str, present: dict[str, int], problems: list[str]) -> list[Shard]:
    """img2dataset's shards; adds those that have no statistics."""
    names = [name for name in sorted(present) if MARKER_NAME.fullmatch(name)]
    markers = read_markers(output, names, present, MARKER, problems)
    shards = [Shard(name.removesuffix("_stats.json"), name, None, marker) for name, marker in markers.items()]
    problems += [f"{name}: its shard has no _stats.json" for name in strays(present, shards)]
    return shards


def listed(output: str, present: dict[str, int], begin: Advance, advance: Advance) -> list[str]:
    """A line for each file of embeddings, matches, repeats or tokens that is not as the manifest lists it."""
    if layout.MANIFEST not in present:
        return ["unfinished: the same command goes on"]
    manifest = storage.read_json(storage.join(output, layout.MANIFEST))
    entries = dict(manifest.get("files", {}))
    for block in manifest["shards"] if manifest["kind"] == "embeddings" else []:
        entries |= block["files"]
    if manifest["kind"] == "tokens":
        entries, present = dict(verify_export.expected(manifest)), verify_export.sizes(output)
    begin(sum(present.get(name, 0) for name in entries))
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(
            lambda item: verify_export.check_file(output, item[0], item[1], present, advance), entries.items()
        )
        return [problem for problem in found if problem]


def strays(present: dict[str, int], shards: list[Shard]) -> list[str]:
    """Files in the manner of a shard's that belong to none of `shards`."""
    listed = {name for shard in shards for name in (*shard.names, shard.marker_name)}
    return sorted(name for name in present if SHARD_FILE.fullmatch(name) and name not in listed)


def read_markers(
    output: str, names: list[str], present: dict[str, int], shape: dict[str, type], problems: list[str]
) -> dict[str, Json | None]:
    with ThreadPoolExecutor(READERS) as pool:
        markers = pool.map(lambda name: read_object(output, name, present, shape, problems), names)
        return dict(zip(names, markers, strict=True))


def read_object(
    output: str, name: str, present: dict[str, int], shape: dict[str, type], problems: list[str]
) -> Json | None:
    """A JSON file's object; None where it is missing or has not the form that it should, which is added."""
    if name not in present:
        problems.append(f"{name}: missing")
        return None
    try:
        value = storage.read_json(storage.join(output, name))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        problems.append(f"{name}: no JSON: {first_line(error)}")
        return None
    if has_shape(value, shape):
        return dict(value)
    problems.append(f"{name}: has not the form that its writer gives it")
    return None


def has_shape(value: Any, shape: dict[str, type]) -> bool:
    if not isinstance(value, dict) or not all(isinstance(value.get(field), kind) for field, kind in shape.items()):
        return False
    return all(isinstance(number, int) for field in COUNTS & shape.keys() for number in value[field].values())


def first_line(error: Exception) -> str:
    return str(error).split("\n")[0]


def main(argv: Sequence[str]) -> int:
    """`gesso verify DIR`: 0 where the dataset is whole, 1 where it is not."""
    parser = ArgumentParser("gesso verify", description="Checks every file of a dataset against its manifest.")
    parser.add_argument("directory", help="what `gesso collect` was given as --output, or img2dataset's output_folder")
    output = parser.parse_args(argv).directory.rstrip("/")
    problems = watched(output)
    for problem in problems:
        print(problem)
    print(f"{output}: {len(problems):,} problems" if problems else f"{output} is whole")
    return 1 if problems else 0


def watched(output: str) -> list[str]:
    """`verify`, with a bar on stderr where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task("reading", total=None)
        return verify(
            output,
            lambda total: bar.update(task, total=total),
            lambda passed: bar.advance(task, passed),
        )
