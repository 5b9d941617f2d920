"""A split of an export: tars of pictures, and rows that locate them. No torch."""

from dataclasses import dataclass
from typing import Any, ClassVar

from gesso import storage
from gesso.dataset.layout import tar_name
from gesso.storage import join
from gesso.training.data.shards import Damaged, Format, Shard, ShardSplit, read_manifest, shards_of, without_damage

PLACE = ("key", "image_offset", "image_bytes")  # columns that locate a picture in the tar
EXPORT = Format(
    kind="export",
    verb="export",
    missing="is no export",
    empty="`gesso export` with its --{split}_size writes some",
    left_out="`gesso train dvae`, `prior` and `contrastive` leave such shards out with --damaged quarantine",
    counted="count",
    columns=PLACE,
    data_name=tar_name,
)


@dataclass(frozen=True)
class Split(ShardSplit):
    """The readable shards of a split of an export."""

    FORMAT: ClassVar[Format] = EXPORT

    def tar(self, shard: Shard) -> str:
        return join(self.path, self.name(shard))


def open_split(data: str, split: str, damaged: Damaged = "refuse", checksums: bool = False) -> Split:
    """A split of what `gesso export` wrote to `data`, with no shard that is missing or has another size.

    `checksums` also verifies the checksum of every file, which "quarantine" always does; each shard that it leaves out
    is named on stderr. Raises UserError where `data` is no finished export or has no samples left, and with "refuse"
    for the first damaged shard.
    """
    data = storage.plain(data)
    manifest, sha256 = read_manifest(data, EXPORT)
    return without_damage(Split(data, split, shards_of(manifest, split, EXPORT), sha256), damaged, checksums)


def filled_splits(data: str) -> set[str]:
    """The splits of an export that have samples by its manifest. Raises UserError where it is no finished export."""
    manifest: dict[str, Any] = read_manifest(data, EXPORT)[0]
    return {entry["split"] for entry in manifest["shards"] if entry["count"]}
