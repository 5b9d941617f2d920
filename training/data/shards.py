"""A split's shards by the manifest, which of them are damaged, their rows: what exports and tokens share. No torch."""

import hashlib
import io
import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from gesso import storage
from gesso.dataset.layout import MANIFEST, PLAN, rows_name
from gesso.errors import UserError
from gesso.storage import join

Json = dict[str, Any]
Damaged = Literal["refuse", "quarantine"]

BLOCK = 1 << 20  # bytes that are hashed at a time
READERS = 8  # files that are hashed at a time


class Format(NamedTuple):
    """A kind of output with splits, and the words of its errors."""

    kind: str  # in its manifest
    verb: str  # `gesso VERB` writes it
    missing: str  # said of a directory of another kind
    empty: str  # what writes samples for the split {split}
    left_out: str  # how a training does without damaged shards
    counted: str  # the manifest's field for a shard's samples
    columns: tuple[str, ...]  # that the rows must have
    data_name: Callable[[int], str]  # a shard's file beside its rows

    @property
    def way_out(self) -> str:
        return f"give the --output of a `gesso {self.verb}`"


@dataclass(frozen=True)
class Shard:
    """An entry of the manifest."""

    index: int
    count: int  # samples
    files: Json  # sizes and checksums by name: those of its data and of its rows


class Damage(Exception):
    """A shard is damaged; the message begins with the file's name."""


@dataclass(frozen=True)
class ShardSplit:
    """The readable shards of a split, in the manifest's order."""

    FORMAT: ClassVar[Format]

    path: str  # of the output
    split: str
    shards: tuple[Shard, ...]
    sha256: str  # of the manifest
    # the data file's name and the damage of each shard left out
    quarantined: tuple[tuple[str, str], ...] = field(default=(), kw_only=True)

    @property
    def counts(self) -> list[int]:
        return [shard.count for shard in self.shards]

    @property
    def samples(self) -> int:
        return sum(self.counts)

    def identity(self) -> Json:
        """Identifies these samples in a run's record."""
        return {
            "path": self.path,
            "split": self.split,
            "manifest_sha256": self.sha256,
            "samples": self.samples,
            "shards": len(self.shards),
            "quarantined": [name for name, _ in self.quarantined],
        }

    def name(self, shard: Shard) -> str:
        """The name of a shard's data file below the output."""
        return f"{self.split}/{self.FORMAT.data_name(shard.index)}"

    def rows(self, shard: Shard, columns: Sequence[str]) -> pa.Table:
        """Some columns of a shard's rows, in their order. Raises UserError where they are not the manifest's."""
        try:
            return read_rows(self.path, self.split, shard, columns)
        except Damage as damage:
            raise self.refusal(str(damage)) from damage

    def refusal(self, what: str) -> UserError:
        """The error for a damaged file; `what` begins with its name below the output."""
        return UserError(
            f"{join(self.path, what)}: `gesso verify {self.path}` lists all damage, {self.FORMAT.left_out}"
        )

    def check(self, shard: Shard) -> None:
        """Raises Damage where a shard's files differ from the manifest, or its rows lack a column."""
        name = self.name(shard)
        if file_sha256(join(self.path, name)) != shard.files[self.FORMAT.data_name(shard.index)]["sha256"]:
            raise Damage(f"{name} differs from {MANIFEST} in its sha256")
        read_rows(self.path, self.split, shard, self.FORMAT.columns)


S = TypeVar("S", bound=ShardSplit)


def read_manifest(data: str, form: Format) -> tuple[Json, str]:
    """The output's manifest and its checksum. Raises UserError where there is none of this kind."""
    path = join(data, MANIFEST)
    try:
        body = storage.read(path)
    except FileNotFoundError as error:
        if storage.exists(join(data, PLAN)):
            raise UserError(f"{data} is not finished: run its `gesso {form.verb}` again, it continues") from error
        raise UserError(f"{data} holds no {MANIFEST}: {form.way_out}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error})") from error
    try:
        manifest = json.loads(body)
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): {form.verb} again") from error
    if not isinstance(manifest, dict) or manifest.get("kind") != form.kind:
        raise UserError(f"{data} {form.missing}: {form.way_out}")
    return manifest, hashlib.sha256(body).hexdigest()


def shards_of(manifest: Json, split: str, form: Format) -> tuple[Shard, ...]:
    entries = [entry for entry in manifest["shards"] if entry["split"] == split]
    return tuple(Shard(entry["index"], entry[form.counted], entry["files"]) for entry in entries)


def without_damage(found: S, damaged: Damaged, checksums: bool) -> S:
    """The split without the shards that are missing or have another size, or with "quarantine" are damaged otherwise.

    Each shard that is left out is named on stderr. Raises UserError where no samples are left, and with "refuse" for
    the first damaged shard.
    """
    damage = find_damage(found, checksums or damaged == "quarantine")
    if damage and damaged == "refuse":
        raise found.refusal(next(iter(damage.values())))
    kept = tuple(shard for shard in found.shards if shard.index not in damage)
    quarantined = tuple((found.name(shard), damage[shard.index]) for shard in found.shards if shard.index in damage)
    for name, what in quarantined:
        print(f"{join(found.path, name)} is left out with its samples: {what}", file=sys.stderr)
    if not sum(shard.count for shard in kept):
        why = "every shard of it is damaged" if found.shards else found.FORMAT.empty.format(split=found.split)
        raise UserError(f"{found.path} has no samples for {found.split}: {why}")
    return replace(found, shards=kept, quarantined=quarantined)


def find_damage(found: ShardSplit, checksums: bool) -> dict[int, str]:
    """The damage of each damaged shard, by its index."""
    present = storage.sizes(join(found.path, found.split))

    def check(shard: Shard) -> str | None:
        try:
            check_sizes(found.split, shard, present)
            if checksums:
                found.check(shard)
        except Damage as damage:
            return str(damage)
        return None

    with ThreadPoolExecutor(READERS) as pool:
        told = pool.map(check, found.shards)
        return {shard.index: what for shard, what in zip(found.shards, told, strict=True) if what}


def check_sizes(split: str, shard: Shard, present: dict[str, int]) -> None:
    """Raises Damage where a file is missing or has another size."""
    for name, entry in shard.files.items():
        if name not in present:
            raise Damage(f"{split}/{name} is missing")
        if present[name] != entry["bytes"]:
            raise Damage(f"{split}/{name} has {present[name]:,} bytes, in {MANIFEST} {entry['bytes']:,}")


def file_sha256(path: str) -> str:
    digest = hashlib.sha256()
    try:
        with storage.open_input(path) as stream:
            while data := stream.read(BLOCK):
                digest.update(data)
    except OSError as error:
        raise Damage(f"{'/'.join(path.rsplit('/', 2)[1:])} cannot be read ({error.strerror or error})") from error
    return digest.hexdigest()


def read_rows(data: str, split: str, shard: Shard, columns: Sequence[str]) -> pa.Table:
    """Some columns of a shard's rows. Raises Damage."""
    name = rows_name(shard.index)
    path = f"{split}/{name}"
    try:
        body = storage.read(join(data, path))
    except OSError as error:
        raise Damage(f"{path} cannot be read ({error.strerror or error})") from error
    if hashlib.sha256(body).hexdigest() != shard.files[name]["sha256"]:
        raise Damage(f"{path} differs from {MANIFEST} in its sha256")
    parquet = pq.ParquetFile(io.BytesIO(body))
    absent = [column for column in columns if column not in parquet.schema_arrow.names]
    if absent:
        raise Damage(f"{path} has no column {absent[0]}")
    if parquet.metadata.num_rows != shard.count:
        raise Damage(f"{path} has {parquet.metadata.num_rows:,} rows, in {MANIFEST} {shard.count:,}")
    return parquet.read(columns=list(columns), use_threads=False)
