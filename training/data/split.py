"""A split of an export: its shards by the manifest, which of them are damaged, their rows. No torch."""

import hashlib
import io
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from gesso import storage
from gesso.dataset.layout import MANIFEST, PLAN, rows_name, tar_name
from gesso.errors import UserError
from gesso.storage import join

Json = dict[str, Any]
Damaged = Literal["refuse", "quarantine"]

KIND = "export"
BLOCK = 1 << 20  # bytes that are hashed at a time
READERS = 8  # files that are hashed at a time
PLACE = ("key", "image_offset", "image_bytes")  # columns that locate a picture in the tar


@dataclass(frozen=True)
class Shard:
    """An entry of the manifest."""

    index: int
    count: int  # samples
    files: Json  # size and checksum of tar and parquet, by name


class Damage(Exception):
    """A shard is damaged; the message begins with the file's name."""


@dataclass(frozen=True)
class Split:
    """The readable shards of a split, in the manifest's order."""

    path: str  # of the export
    split: str
    shards: tuple[Shard, ...]
    sha256: str  # of the manifest
    quarantined: tuple[tuple[str, str], ...] = ()  # the tar's name and the damage of each shard left out

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

    def tar(self, shard: Shard) -> str:
        return join(self.path, self.split, tar_name(shard.index))

    def rows(self, shard: Shard, columns: Sequence[str]) -> pa.Table:
        """Some columns of a shard's rows, in its tar's order. Raises UserError where they are not the manifest's."""
        try:
            return read_rows(self.path, self.split, shard, columns)
        except Damage as damage:
            raise self.refusal(str(damage)) from damage

    def refusal(self, what: str) -> UserError:
        """The error for a damaged file; `what` begins with its name below the export."""
        return UserError(
            f"{join(self.path, what)}: `gesso verify {self.path}` lists all damage, "
            "`gesso train dvae --damaged quarantine` leaves such shards out"
        )


def open_split(data: str, split: str, damaged: Damaged = "refuse", checksums: bool = False) -> Split:
    """A split of what `gesso export` wrote to `data`, with no shard that is missing or has another size.

    `checksums` also verifies the checksum of every file, which "quarantine" always does; each shard that it leaves out
    is named on stderr. Raises UserError where `data` is no finished export or has no samples left, and with "refuse"
    for the first damaged shard.
    """
    data = storage.plain(data)
    manifest, sha256 = read_manifest(data)
    entries = [entry for entry in manifest["shards"] if entry["split"] == split]
    shards = [Shard(entry["index"], entry["count"], entry["files"]) for entry in entries]
    damage = find_damage(data, split, shards, checksums or damaged == "quarantine")
    if damage and damaged == "refuse":
        raise Split(data, split, (), sha256).refusal(next(iter(damage.values())))
    kept = tuple(shard for shard in shards if shard.index not in damage)
    quarantined = tuple((f"{split}/{tar_name(index)}", what) for index, what in damage.items())
    for name, what in quarantined:
        print(f"{join(data, name)} is left out with its samples: {what}", file=sys.stderr)
    found = Split(data, split, kept, sha256, quarantined)
    if not found.samples:
        why = "every shard of it is damaged" if shards else f"`gesso export` with its --{split}_size writes some"
        raise UserError(f"{data} has no samples for {split}: {why}")
    return found


def read_manifest(data: str) -> tuple[Json, str]:
    """The export's manifest and its checksum. Raises UserError where there is none."""
    path = join(data, MANIFEST)
    try:
        body = storage.read(path)
    except FileNotFoundError as error:
        if storage.exists(join(data, PLAN)):
            raise UserError(f"{data} is not finished: run its `gesso export` again, it continues") from error
        raise UserError(f"{data} holds no {MANIFEST}: give the --output of a `gesso export`") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error})") from error
    try:
        manifest = json.loads(body)
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): export again") from error
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
        raise UserError(f"{data} is no export: give the --output of a `gesso export`")
    return manifest, hashlib.sha256(body).hexdigest()


def find_damage(data: str, split: str, shards: Sequence[Shard], checksums: bool) -> dict[int, str]:
    """The damage of each damaged shard, by its index."""
    present = storage.sizes(join(data, split))

    def check(shard: Shard) -> str | None:
        try:
            check_sizes(split, shard, present)
            if checksums:
                check_bytes(data, split, shard)
        except Damage as damage:
            return str(damage)
        return None

    with ThreadPoolExecutor(READERS) as pool:
        found = pool.map(check, shards)
        return {shard.index: what for shard, what in zip(shards, found, strict=True) if what}


def check_sizes(split: str, shard: Shard, present: dict[str, int]) -> None:
    """Raises Damage where a file is missing or has another size."""
    for name, entry in shard.files.items():
        if name not in present:
            raise Damage(f"{split}/{name} is missing")
        if present[name] != entry["bytes"]:
            raise Damage(f"{split}/{name} has {present[name]:,} bytes, in {MANIFEST} {entry['bytes']:,}")


def check_bytes(data: str, split: str, shard: Shard) -> None:
    """Raises Damage where tar or rows differ from the manifest, or the rows do not locate the pictures."""
    name = tar_name(shard.index)
    if file_sha256(join(data, split, name)) != shard.files[name]["sha256"]:
        raise Damage(f"{split}/{name} differs from {MANIFEST} in its sha256")
    read_rows(data, split, shard, PLACE)


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
