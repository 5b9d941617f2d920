"""`gesso verify`: checks every file of a dataset. No Beam, no pictures decoded.

A finished collection is checked against its manifest, the committed shards of an unfinished one against their markers,
and img2dataset's own shards, which have no checksums, against their rows and statistics. verify_index.py checks an
index, verify_export.py an export, verify_run.py a training. Of embeddings, matches, repeats and tokens every file that
the manifest lists is checked, of a bundle what model.json lists, and generated pictures by generated.json. A problem is
a line that begins with the name of its file; repair.py removes what is damaged.
"""

import hashlib
import json
import os
import re
import sys
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby, pairwise
from operator import itemgetter
from typing import IO, Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from gesso import storage
from gesso.dataset import kinds, layout
from gesso.dataset.kinds import Kind
from gesso.dataset.layout import former_rejected_name, marker_name, plan_name, rejected_name
from gesso.dataset.manifest import MARKER as MARKER_NAME
from gesso.dataset.manifest import READERS, funnel, sizes
from gesso.dataset.members import split_name
from gesso.dataset.records import FAILED_TO_DOWNLOAD, FAILED_TO_RESIZE, REJECTED, SUCCESS
from gesso.errors import UserError
from gesso.flags import Parser, path
from gesso.generation.layout import GENERATED, MODEL
from gesso.pipelines import repair, verify_export, verify_index, verify_run

T = TypeVar("T")
Json = dict[str, Any]
Advance = Callable[[int], None]  # called with a number of bytes

THREADS = min(16, 4 * (os.cpu_count() or 1))  # hashing releases the interpreter lock; the rest waits for disks
BLOCK = 1 << 20  # bytes read at a time
ROWS = 8192
SAMPLE = ("jpg", "txt", "json")
# What pyarrow raises for damaged files; many of its own errors, and those of invalid UTF-8, are ValueErrors.
PARQUET_ERRORS = (pa.ArrowException, ValueError, OSError)
REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE)
SHARD_FILE = re.compile(r"[^/]+\.(tar|parquet)|rejected/[^/]+\.(thumbnails|tar)|\d{5,}_stats\.json")
MAX_NAMED = 10  # missing shards that are listed by number
# The fields of each kind of JSON file, with their types; the values of COUNTS must be integers.
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
# The manifests of what is no collection.
LISTED: dict[str, dict[str, type]] = {
    "index": {"kind": str, "shards": list, "samples": int, "funnel": dict},
    "embeddings": {"kind": str, "shards": list},
    "matches": {"kind": str, "files": dict},
    "repeats": {"kind": str, "files": dict},
    "export": {"kind": str, "shards": list, "files": dict, "samples": int, "splits": dict, "funnel": dict},
    "tokens": {"kind": str, "shards": list, "files": dict},
}
# The file that lists those of what has no manifest, its field and type.
ENTRIES: dict[str, tuple[str, str, type]] = {
    "generated": (GENERATED, "pictures", list),
    "bundle": (MODEL, "files", dict),
}
PLAN = {"shards": int, "rows_read": int, "counted_only": dict, "settings": dict, "input": list}


class DamagedFile(Exception):
    """A damaged file; the message is one line without the file's name."""


class Rows(NamedTuple):
    """The content of a shard's parquet."""

    keys: list[str]  # of the successes
    statuses: Counter[str]
    reasons: Counter[str]


class Shard(NamedTuple):
    """A shard with its listing; `files` is None for img2dataset's own shards, which have no checksums."""

    stem: str
    source: str  # the name of the file that lists it
    files: Json | None
    marker: Json | None  # None: damaged, and reported already

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


class HashingReader:
    """A file object for reading that counts and hashes its bytes."""

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
        """Reads `size` bytes; False where the stream ends before that."""
        while size > 0:
            done = len(self.read(min(size, BLOCK)))
            if not done:
                return False
            size -= done
        return True

    def rest(self) -> Iterator[bytes]:
        while data := self.read(BLOCK):
            yield data

    def sha256(self) -> str:
        """The checksum of the whole file, which is read to its end."""
        for _ in self.rest():
            pass
        return self._sha256.hexdigest()


class Checker:
    """Checks the shards of one directory. Thread-safe."""

    def __init__(self, output: str, present: dict[str, int], advance: Advance) -> None:
        self._output = output
        self._present = present
        self._advance = advance

    def shard(self, shard: Shard) -> list[str]:
        """A line for each problem of a shard."""
        problems: list[str] = []
        tar, rows, *rejected = shard.names
        kept = self._try(problems, self._tar, tar, shard)
        read = self._try(problems, self._rows, rows, shard)
        for name in rejected:
            self._try(problems, self._tar, name, shard)
        if kept is not None and read is not None:
            problems += compare_samples(shard, kept, read)
        if read is not None and shard.marker is not None:
            problems += compare_counts(shard, shard.marker, read)
        return problems

    def _try(self, problems: list[str], check: Callable[[str, Shard], T], name: str, shard: Shard) -> T | None:
        """The result of the check; None where it finds damage, which is added to `problems`."""
        try:
            return check(name, shard)
        except DamagedFile as damage:
            problems.append(f"{name}: {damage}")
        except OSError as error:
            problems.append(f"{name}: unreadable: {error}")
        return None

    def _tar(self, name: str, shard: Shard) -> list[str]:
        """The keys of a tar's samples. Raises DamagedFile."""
        entry = self._expected(name, shard)
        with storage.open_input(storage.join(self._output, name)) as stream:
            reader = HashingReader(stream, self._advance)
            try:
                keys = list(sample_keys(tar_members(reader), shard.files is not None))
            except DamagedFile:
                check_sha256(reader, entry, shard)
                raise
            check_sha256(reader, entry, shard)
        return keys

    def _rows(self, name: str, shard: Shard) -> Rows:
        """The content of the rows. Raises DamagedFile."""
        entry = self._expected(name, shard)
        with storage.open_input(storage.join(self._output, name)) as stream:
            check_sha256(HashingReader(stream, self._advance), entry, shard)
            stream.seek(0)
            try:
                return read_rows(stream, shard.files is not None)
            except PARQUET_ERRORS as error:
                raise DamagedFile(f"not parquet: {first_line(error)}") from error

    def _expected(self, name: str, shard: Shard) -> Json | None:
        """The listed size and checksum of a file, whose size is checked. Raises DamagedFile."""
        if name not in self._present:
            raise DamagedFile("missing")
        if shard.files is None:
            return None
        entry: Json = shard.files.get(name, {})
        if not has_shape(entry, ENTRY):
            raise DamagedFile(f"not in {shard.source}")
        if entry["bytes"] != self._present[name]:
            raise DamagedFile(f"{self._present[name]:,} bytes, in {shard.source} {entry['bytes']:,}")
        return entry


def check_sha256(reader: HashingReader, entry: Json | None, shard: Shard) -> None:
    found = reader.sha256()
    if entry and found != entry["sha256"]:
        raise DamagedFile(f"sha256 differs from {shard.source}")


def tar_members(reader: HashingReader) -> Iterator[str]:
    """The names of a tar's files. Raises DamagedFile unless it is complete."""
    while True:
        offset = reader.bytes
        block = reader.read(tarfile.BLOCKSIZE)
        if block == bytes(tarfile.BLOCKSIZE):
            break
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise DamagedFile(f"not a tar from byte {offset:,} on: {error}") from error
        if not reader.skip(-(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE):
            raise DamagedFile(f"cut off in {info.name}")
        if info.type in REGULAR:  # others are extension headers for long names
            yield info.name
    check_end(reader)


def check_end(reader: HashingReader) -> None:
    """Checks that a tar ends with two or more blocks of zeros and nothing else. Raises DamagedFile."""
    offset = reader.bytes
    if any(block.strip(b"\0") for block in reader.rest()):
        raise DamagedFile(f"has data after its end at byte {offset:,}")
    if reader.bytes - offset < tarfile.BLOCKSIZE:
        raise DamagedFile("cut off at its end")


def sample_keys(names: Iterable[str], ours: bool) -> Iterator[str]:
    """The keys of samples, whose files must be adjacent, and sorted by key where `ours`. Raises DamagedFile."""
    last = ""
    for key, group in groupby(map(split_name, names), itemgetter(0)):
        kinds = tuple(suffix for _, suffix in group)
        if not (kinds == SAMPLE if ours else "json" in kinds and len(set(kinds)) == len(kinds) > 1):
            raise DamagedFile(f"sample {key} is {', '.join(kinds)}")
        if ours and key <= last:
            raise DamagedFile(f"sample {key} comes after {last}")
        last = key
        yield key


def read_rows(stream: IO[bytes], ours: bool) -> Rows:
    """Keys, statuses and reasons of a shard's rows, read in batches. Raises DamagedFile."""
    parquet = pq.ParquetFile(stream)
    columns = ["key", "status", *(["reason"] if ours else [])]
    for name in columns:
        if name not in parquet.schema_arrow.names or parquet.schema_arrow.field(name).type != pa.string():
            raise DamagedFile(f"has no column {name} of strings")
    rows, last = Rows([], Counter(), Counter()), ""
    for batch in parquet.iter_batches(ROWS, columns=columns):
        if batch["key"].null_count:
            raise DamagedFile("has a row without a key")
        keys, statuses = batch["key"].to_pylist(), batch["status"].to_pylist()
        if ours and not all(before < after for before, after in pairwise([last, *keys])):
            raise DamagedFile("rows are not in the order of their keys")
        last = [last, *keys][-1]
        rows.keys.extend(key for key, status in zip(keys, statuses, strict=True) if status == SUCCESS)
        rows.statuses.update(statuses)
        rows.reasons.update(reason or SUCCESS for reason in (batch["reason"].to_pylist() if ours else ()))
    return rows


def compare_samples(shard: Shard, kept: list[str], rows: Rows) -> list[str]:
    """A line where the tar's samples are not those of the rows."""
    tar, parquet, *_ = shard.names
    named, found = Counter(rows.keys), Counter(kept)
    absent, unknown = (named - found).total(), (found - named).total()
    if not absent and not unknown:
        return []
    return [f"{tar}: {absent:,} of {parquet}'s samples are missing, {unknown:,} are not among its successes"]


def compare_counts(shard: Shard, marker: Json, rows: Rows) -> list[str]:
    """A line for each count of the marker that differs from the rows."""
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


def ignore(number: int) -> None:
    """Without a progress bar."""


def verify(output: str, start: Advance = ignore, advance: Advance = ignore) -> list[str]:
    """A line for each problem of the dataset; none where it is complete and undamaged.

    `start` is called with the number of bytes to read, `advance`, on any thread, with the number just read. Raises
    UserError where there is no dataset.
    """
    present = sizes(output)
    problems: list[str] = []
    kind = kinds.recognise(output)
    if kind and kind.name in verify_run.KINDS:
        return verify_run.verify(output, kind, start, advance)
    if kind and kind.name in ENTRIES:
        return verify_entries(output, kind, present, start, advance)
    if kind and kind.name in LISTED:
        return verify_listed(output, kind, present, start, advance)
    if layout.MANIFEST in present:
        shards = shards_of_manifest(output, present, problems)
    elif layout.PLAN in present:
        shards = shards_of_plan(output, present, problems)
    elif any(map(MARKER_NAME.fullmatch, present)):
        shards = img2dataset_shards(output, present, problems)
    else:
        raise UserError(f"{output} holds no dataset: give the --output of a `gesso collect`, or img2dataset's folder")
    start(sum(present.get(name, 0) for shard in shards for name in shard.names))
    checker = Checker(output, present, advance)
    with ThreadPoolExecutor(THREADS) as pool:
        for found in pool.map(checker.shard, shards):
            problems += found
    return problems


def verify_listed(output: str, kind: Kind, present: dict[str, int], start: Advance, advance: Advance) -> list[str]:
    """A line for each problem of what is no collection: its manifest lists every file."""
    problems: list[str] = []
    manifest = None
    if layout.MANIFEST in present:
        manifest = read_object(output, layout.MANIFEST, present, LISTED[kind.name], problems)
        if manifest is None:
            return problems
    if kind.name == "export":
        return verify_export.verify(output, manifest, start, advance, THREADS)
    if kind.name == "index":
        return verify_index.verify(output, manifest, start, advance, THREADS)
    if manifest is None and layout.PLAN not in present:
        raise UserError(f"{output} holds clip-retrieval's own embeddings: no file of it states what they should be")
    if manifest is None:
        return [f"unfinished: run the same `{kind.command}` again"]
    return check_listed_files(output, manifest, present, start, advance)


def verify_entries(output: str, kind: Kind, present: dict[str, int], start: Advance, advance: Advance) -> list[str]:
    """A line for each problem of a bundle or of generated pictures: the JSON file that is written last lists all."""
    lists, field, shape = ENTRIES[kind.name]
    if lists not in present and kind.name == "generated":
        return [f"unfinished: run the same `{kind.command}` again"]
    problems: list[str] = []
    listing = read_object(output, lists, present, {field: shape}, problems)
    if listing is None:
        return problems
    listed = listing[field]
    entries = listed if isinstance(listed, dict) else {entry["file"]: entry for entry in listed}
    sizes = {item.path.removeprefix(f"{output}/"): item.size for item in storage.walk(output)}
    start(sum(sizes.get(name, 0) for name in entries))
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(
            lambda item: verify_export.check_file(output, item[0], item[1], sizes, advance, lists),
            sorted(entries.items()),
        )
        return [problem for problem in found if problem]


def shards_of_manifest(output: str, present: dict[str, int], problems: list[str]) -> list[Shard]:
    """The manifest's shards; adds the problems of manifest, plan and markers."""
    manifest = read_object(output, layout.MANIFEST, present, MANIFEST, problems)
    plan = read_object(output, layout.PLAN, present, PLAN, problems)
    if manifest is None:
        return [shard for shard in gesso_shards(output, present, problems) if shard.marker]
    shards = manifest["shards"]
    if not all(has_shape(entry, SHARD) for entry in shards) or len({entry["index"] for entry in shards}) < len(shards):
        problems.append(f"{layout.MANIFEST}: its shards do not have the fields that gesso writes")
        return []
    names = [marker_name(entry["index"]) for entry in shards]
    markers = read_markers(output, names, present, OUR_MARKER, problems)
    problems += compare_markers(manifest, markers)
    if plan:
        problems += compare_manifest(manifest, plan, markers)
    found = [
        Shard(f"{entry['index']:05d}", layout.MANIFEST, entry["files"], markers[name])
        for entry, name in zip(shards, names, strict=True)
    ]
    problems += [f"{name}: not in {layout.MANIFEST}" for name in unlisted_files(present, found)]
    return found


def compare_markers(manifest: Json, markers: dict[str, Json | None]) -> list[str]:
    """A line for each field of a marker that differs from the manifest."""
    differing = (
        (name, field)
        for entry, (name, marker) in zip(manifest["shards"], markers.items(), strict=True)
        for field in ("count", "successes", "files")
        if marker and marker[field] != entry[field]
    )
    return [f"{name}: {field} differs from {layout.MANIFEST}" for name, field in differing]


def compare_manifest(manifest: Json, plan: Json, markers: dict[str, Json | None]) -> list[str]:
    """A line for each field of the manifest that differs from the plan and the markers."""
    expected: Json = {"settings": plan["settings"], "input": plan["input"]}
    readable = [marker for marker in markers.values() if marker]
    if len(readable) == len(markers):
        expected |= {"samples": sum(marker["successes"] for marker in readable), "funnel": funnel(plan, readable)}
    differing = (field for field, value in expected.items() if manifest[field] != value)
    problems = [f"{layout.MANIFEST}: {field} differs from {layout.PLAN} and the markers" for field in differing]
    indexes = [entry["index"] for entry in manifest["shards"]]
    if indexes != list(range(plan["shards"])):
        problems.append(f"{layout.MANIFEST}: lists {len(indexes):,} shards, {layout.PLAN} has {plan['shards']:,}")
    read, *ended = expected.get("funnel", {"rows_read": 0}).values()
    if read != sum(ended):
        problems.append(f"the funnel does not add up: {read:,} rows read, {sum(ended):,} accounted for")
    return problems


def shards_of_plan(output: str, present: dict[str, int], problems: list[str]) -> list[Shard]:
    """The committed shards of a collection without a manifest; adds the missing ones."""
    plan = read_object(output, layout.PLAN, present, PLAN, problems)
    shards = gesso_shards(output, present, problems)
    if plan:
        missing = [index for index in range(plan["shards"]) if marker_name(index) not in present]
        planned = {name.partition(".")[0] for name in storage.sizes(storage.join(output, "plan"))}
        problems += [f"{plan_name(index)}: missing" for index in missing if f"{index:05d}" not in planned]
        problems.append(missing_shards(missing, plan["shards"]))
    return [shard for shard in shards if shard.marker]


def missing_shards(missing: list[int], total: int) -> str:
    """A line that lists the missing shards."""
    if not missing:
        return f"unfinished: {layout.MANIFEST} is missing; run the same `gesso collect` again"
    named = " ".join(f"{index:05d}" for index in missing[:MAX_NAMED]) + (" …" if len(missing) > MAX_NAMED else "")
    text = f"unfinished: {len(missing):,} of {total:,} shards are missing: {named}"
    return f"{text}; run the same `gesso collect` again"


def gesso_shards(output: str, present: dict[str, int], problems: list[str]) -> list[Shard]:
    """The shards that have a marker."""
    names = [name for name in sorted(present) if MARKER_NAME.fullmatch(name)]
    markers = read_markers(output, names, present, OUR_MARKER, problems)
    return [
        Shard(name.removesuffix("_stats.json"), name, marker["files"] if marker else {}, marker)
        for name, marker in markers.items()
    ]


def img2dataset_shards(output: str, present: dict[str, int], problems: list[str]) -> list[Shard]:
    """img2dataset's shards; adds those without statistics."""
    names = [name for name in sorted(present) if MARKER_NAME.fullmatch(name)]
    markers = read_markers(output, names, present, MARKER, problems)
    shards = [Shard(name.removesuffix("_stats.json"), name, None, marker) for name, marker in markers.items()]
    problems += [f"{name}: its shard has no _stats.json" for name in unlisted_files(present, shards)]
    return shards


def check_listed_files(
    output: str, manifest: Json, present: dict[str, int], start: Advance, advance: Advance
) -> list[str]:
    """A line for each file of embeddings, matches, repeats or tokens that differs from the manifest."""
    entries = dict(manifest.get("files", {}))
    for block in manifest["shards"] if manifest["kind"] == "embeddings" else []:
        entries |= block["files"]
    if manifest["kind"] == "tokens":
        entries, present = dict(verify_export.listed_files(manifest)), verify_export.all_sizes(output)
    start(sum(present.get(name, 0) for name in entries))
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(
            lambda item: verify_export.check_file(output, item[0], item[1], present, advance), entries.items()
        )
        return [problem for problem in found if problem] + verify_export.damaged_markers(output, present)


def unlisted_files(present: dict[str, int], shards: list[Shard]) -> list[str]:
    """Files named like a shard's that belong to none of `shards`."""
    known = {name for shard in shards for name in (*shard.names, shard.marker_name)}
    return sorted(name for name in present if SHARD_FILE.fullmatch(name) and name not in known)


def read_markers(
    output: str, names: list[str], present: dict[str, int], shape: dict[str, type], problems: list[str]
) -> dict[str, Json | None]:
    with ThreadPoolExecutor(READERS) as pool:
        markers = pool.map(lambda name: read_object(output, name, present, shape, problems), names)
        return dict(zip(names, markers, strict=True))


def read_object(
    output: str, name: str, present: dict[str, int], shape: dict[str, type], problems: list[str]
) -> Json | None:
    """A JSON file's object; None where it is missing or invalid, which is added to `problems`."""
    if name not in present:
        problems.append(f"{name}: missing")
        return None
    try:
        value = storage.read_json(storage.join(output, name))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        problems.append(f"{name}: not JSON: {first_line(error)}")
        return None
    if has_shape(value, shape):
        return dict(value)
    problems.append(f"{name}: does not have the fields that it should")
    return None


def has_shape(value: Any, shape: dict[str, type]) -> bool:
    if not isinstance(value, dict) or not all(isinstance(value.get(field), kind) for field, kind in shape.items()):
        return False
    return all(isinstance(number, int) for field in COUNTS & shape.keys() for number in value[field].values())


def first_line(error: Exception) -> str:
    return str(error).split("\n")[0]


def build_parser() -> Parser:
    parser = Parser(
        "gesso verify",
        "Checks every file of a dataset: size, checksum, and that tars, rows, markers and manifest agree. "
        "Of a training, that checkpoints and metrics can be read.",
    )
    parser.add_argument("directory", type=path, help="the --output of a gesso command, or img2dataset's folder")
    parser.add_argument(
        "--repair", action="store_true", help="remove what is damaged, after a yes; the same command makes it again"
    )
    parser.add_argument("--yes", action="store_true", help="with --repair: remove without asking")
    return parser


def main(argv: Sequence[str]) -> int:
    """`gesso verify DIR`: 0 where there is no problem or all is repaired, 1 where there is."""
    given = build_parser().parse_args(argv)
    repair.check_flags(given.repair, given.yes)
    output, kind = kinds.find(given.directory)
    problems = verify_with_bar(output)
    for problem in problems:
        print(problem)
    print(f"{output}: {number_of(problems)}")
    if problems and given.repair:
        return repair.repair(output, kind, problems, given.yes)
    return 1 if problems else 0


def number_of(problems: list[str]) -> str:
    return f"{len(problems):,} problem{'s' if len(problems) > 1 else ''}" if problems else "no problems"


def verify_with_bar(output: str) -> list[str]:
    """`verify` with a progress bar, if stderr is a terminal and rich is installed."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn
    except ModuleNotFoundError:
        return verify(output)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task("reading", total=None)
        return verify(
            output,
            lambda total: bar.update(task, total=total),
            lambda done: bar.advance(task, done),
        )
