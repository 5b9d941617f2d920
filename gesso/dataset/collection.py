"""A directory of shards as an input of later jobs: a finished collection, an index, or img2dataset's own. No Beam."""

import hashlib
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gesso import storage
from gesso.dataset import index, layout, manifest
from gesso.dataset.kinds import KINDS
from gesso.dataset.layout import MANIFEST, PLAN, rows_name, tar_name
from gesso.errors import UserError

Json = dict[str, Any]

TAR = re.compile(r"\d{5,}\.tar")
CONTENT = re.compile(r"\d{5,}\.(tar|parquet)")
KIND = "shards"


class SourceShard(NamedTuple):
    """A committed shard."""

    number: int
    bytes: int  # of its tar
    samples: int
    tar: str
    indexed: bool = False  # its rows tell where the pictures are in a tar of others


@dataclass(frozen=True)
class Collection:
    """A directory's shards, all of them committed; `manifest` is None for img2dataset's own."""

    path: str
    shards: tuple[SourceShard, ...]
    manifest: Json | None
    sha256: str  # of the manifest; of img2dataset's own the one of `files_sha256`

    @property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    @property
    def indexed(self) -> bool:
        return any(shard.indexed for shard in self.shards)

    def source_record(self) -> Json:
        """What tells this collection as the source of embeddings, matches and repeats (identity.py)."""
        return {"kind": KIND, "path": storage.absolute(self.path), "sha256": self.sha256}

    def input_record(self) -> Json:
        """This collection as `input` of plan.json lists it; the same for the same shards."""
        return {
            "kind": KIND,
            "path": storage.absolute(self.path),
            checksum_name(self.manifest is not None): self.sha256,
            "shards": len(self.shards),
            "samples": self.samples,
            "bytes": sum(shard.bytes for shard in self.shards),
        }

    def has_any(self, keys: pa.Array) -> bool:
        """Whether one of the keys is in the rows; shards are read until there is one."""
        return any(pc.any(pc.is_in(read_keys(self.path, shard), value_set=keys)).as_py() for shard in self.shards)

    def schema(self) -> pa.Schema:
        """The columns of the rows: those of the first shard of a collection, else of all of img2dataset's together."""
        read = self.shards if self.manifest is None else self.shards[:1]
        with ThreadPoolExecutor(manifest.READERS) as pool:
            schemas = list(pool.map(lambda shard: read_schema(storage.join(self.path, rows_name(shard.number))), read))
        try:
            return pa.unify_schemas(schemas)
        except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
            raise UserError(f"the rows of {self.path} have columns of several types: {first_line(error)}") from error


def open_collection(path: str) -> Collection:
    """Raises UserError where the directory holds no shards, is unfinished, or has files missing or of a wrong size."""
    path = storage.plain(path)
    present = manifest.sizes(path)
    if MANIFEST in present:
        read, sha256 = read_manifest(path)
        if read.get("kind") == index.KIND:
            return Collection(path, tuple(indexed_shards(path, read, present)), read, sha256)
        shards = [source_shard(path, entry["index"], entry, present) for entry in read["shards"]]
        found = Collection(path, tuple(shards), read, sha256)
    elif PLAN in present:
        command = "gesso index" if index.is_index(path) else "gesso collect"
        raise UserError(f"{path} is not finished: run its `{command}` again, it continues where it stopped")
    else:
        found = Collection(path, img2dataset_shards(path, present), None, files_sha256(present))
    if not found.shards:
        raise no_shards_error(path, present)
    return found


def no_shards_error(path: str, present: dict[str, int]) -> UserError:
    """What is said of a directory without shards whose statistics tell of them."""
    if any(name.endswith(".tar") for name in present):
        command = KINDS[index.KIND].made_from(path)
        return UserError(
            f"{path} holds tars without statistics: `{command}` makes an index of them, which is taken in their place"
        )
    return UserError(f"{path} holds no shards: give the --output of a `gesso collect`, or img2dataset's folder")


def checksum(path: str, present: dict[str, int]) -> tuple[str, str]:
    """The checksum that tells a directory of shards from another, after its name in an input record."""
    if MANIFEST not in present:
        return checksum_name(False), files_sha256(present)
    return checksum_name(True), hashlib.sha256(storage.read(storage.join(path, MANIFEST))).hexdigest()


def checksum_name(has_manifest: bool) -> str:
    return "manifest_sha256" if has_manifest else "files_sha256"


def files_sha256(present: dict[str, int]) -> str:
    """What tells shards without a manifest from others: names and sizes of their tars and parquet files."""
    lines = "".join(f"{name}\t{size}\n" for name, size in sorted(present.items()) if CONTENT.fullmatch(name))
    return hashlib.sha256(lines.encode()).hexdigest()


def read_manifest(path: str) -> tuple[Json, str]:
    name = storage.join(path, MANIFEST)
    with storage.open_input(name) as stream:
        body = stream.read()
    try:
        manifest: Json = json.loads(body)
    except ValueError as error:
        raise UserError(f"{name} is not JSON ({error}): `gesso verify {path}` shows what is damaged") from error
    if manifest.get("kind") == "export":
        raise UserError(
            f"{path} holds an export of two splits: give one of them, {storage.join(path, layout.SPLITS[0])}"
        )
    if manifest.get("kind", index.KIND) != index.KIND:
        raise UserError(f"{path} holds {manifest['kind']}, not shards: give the --output of a `gesso collect`")
    return manifest, hashlib.sha256(body).hexdigest()


def img2dataset_shards(path: str, present: dict[str, int]) -> tuple[SourceShard, ...]:
    """img2dataset's shards, listed by their statistics. Raises UserError for a tar without statistics."""
    markers = manifest.committed(path)
    tars = {tar_name(index) for index in markers}
    unmarked = sorted(name for name in present if TAR.fullmatch(name) and name not in tars)
    if unmarked and markers:
        raise UserError(
            f"{path}/{unmarked[0]} has no complete {unmarked[0][:-4]}_stats.json: finish its download, or remove it"
        )
    return tuple(source_shard(path, index, marker, present) for index, marker in markers.items())


def source_shard(path: str, number: int, entry: Json, present: dict[str, int]) -> SourceShard:
    """A shard. Raises UserError where its tar or rows are missing or have another size than the manifest states."""
    check_sizes(path, (tar_name(number), rows_name(number)), entry, present)
    tar = tar_name(number)
    return SourceShard(number, present[tar], entry["successes"], storage.join(path, tar))


def check_sizes(path: str, names: tuple[str, ...], entry: Json, present: dict[str, int]) -> None:
    for name in names:
        expected = entry.get("files", {}).get(name, {}).get("bytes", present.get(name))
        if name not in present or present[name] != expected:
            found = f"has {present[name]:,} bytes, not {expected:,}" if name in present else "is missing"
            raise UserError(f"{path}/{name} {found}: `gesso verify {path}` shows what is damaged")


def indexed_shards(path: str, manifest: Json, present: dict[str, int]) -> Iterator[SourceShard]:
    """The shards of an index. Raises UserError where rows are missing, or a tar is gone or has another size."""
    tars = index.tars(path, manifest)
    index.check_tars(path, tars.values())
    for entry in manifest["shards"]:
        number = entry["index"]
        check_sizes(path, (rows_name(number),), entry, present)
        yield SourceShard(number, tars[number].size, entry["successes"], tars[number].path, indexed=True)


def read_keys(path: str, shard: SourceShard) -> pa.Array:
    name = storage.join(path, rows_name(shard.number))
    try:
        with storage.open_input(name) as stream:
            return pq.read_table(stream, columns=["key"])["key"].cast(pa.string()).combine_chunks()
    except (pa.ArrowException, KeyError, OSError) as error:
        raise UserError(f"{name} has no keys ({first_line(error)}): `gesso verify` shows what is damaged") from error


def read_schema(path: str) -> pa.Schema:
    try:
        with storage.open_input(path) as stream:
            return pq.read_schema(stream).remove_metadata()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is not parquet ({first_line(error)}): `gesso verify` shows what is damaged") from error


def first_line(error: Exception) -> str:
    return str(error).split("\n")[0]
