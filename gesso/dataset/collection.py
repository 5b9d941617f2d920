"""A directory of shards as an input of later jobs: a finished collection, or img2dataset's own. No Beam."""

import hashlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from gesso import storage
from gesso.dataset import layout, manifest
from gesso.dataset.layout import MANIFEST, PLAN, rows_name, tar_name
from gesso.errors import UserError

Json = dict[str, Any]

TAR = re.compile(r"\d{5,}\.tar")


class SourceShard(NamedTuple):
    """A committed shard."""

    number: int
    bytes: int  # of its tar
    samples: int


@dataclass(frozen=True)
class Collection:
    """A directory's shards, all of them committed; `manifest` is None for img2dataset's own."""

    path: str
    shards: tuple[SourceShard, ...]
    manifest: Json | None
    sha256: str | None  # of the manifest

    @property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    def input_record(self) -> Json:
        """This collection as `input` of plan.json lists it; the same for the same shards."""
        return {
            "kind": "shards",
            "path": self.path,
            "manifest_sha256": self.sha256,
            "shards": len(self.shards),
            "samples": self.samples,
            "bytes": sum(shard.bytes for shard in self.shards),
        }

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
        shards = [source_shard(path, entry["index"], entry, present) for entry in read["shards"]]
        found = Collection(path, tuple(shards), read, sha256)
    elif PLAN in present:
        raise UserError(f"{path} is not finished: run its `gesso collect` again, it continues where it stopped")
    else:
        found = Collection(path, img2dataset_shards(path, present), None, None)
    if not found.shards:
        raise UserError(f"{path} holds no shards: give the --output of a `gesso collect`, or img2dataset's folder")
    return found


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
    if "kind" in manifest:
        raise UserError(f"{path} holds {manifest['kind']}, not shards: give the --output of a `gesso collect`")
    return manifest, hashlib.sha256(body).hexdigest()


def img2dataset_shards(path: str, present: dict[str, int]) -> tuple[SourceShard, ...]:
    """img2dataset's shards, listed by their statistics. Raises UserError for a tar without statistics."""
    markers = manifest.committed(path)
    tars = {tar_name(index) for index in markers}
    unmarked = sorted(name for name in present if TAR.fullmatch(name) and name not in tars)
    if unmarked:
        raise UserError(
            f"{path}/{unmarked[0]} has no complete {unmarked[0][:-4]}_stats.json: finish its download, or remove it"
        )
    return tuple(source_shard(path, index, marker, present) for index, marker in markers.items())


def source_shard(path: str, index: int, entry: Json, present: dict[str, int]) -> SourceShard:
    """A shard. Raises UserError where its tar or rows are missing or have another size than the manifest states."""
    for name in (tar_name(index), rows_name(index)):
        expected = entry.get("files", {}).get(name, {}).get("bytes", present.get(name))
        if name not in present or present[name] != expected:
            found = f"has {present[name]:,} bytes, not {expected:,}" if name in present else "is missing"
            raise UserError(f"{path}/{name} {found}: `gesso verify {path}` shows what is damaged")
    return SourceShard(index, present[tar_name(index)], entry["successes"])


def read_schema(path: str) -> pa.Schema:
    try:
        with storage.open_input(path) as stream:
            return pq.read_schema(stream).remove_metadata()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is not parquet ({first_line(error)}): `gesso verify` shows what is damaged") from error


def first_line(error: Exception) -> str:
    return str(error).split("\n")[0]
