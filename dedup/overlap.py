"""A directory of matches as `gesso match` writes it: read and checked before a decision is made on it. No Beam.

matches.parquet   schemas.MATCH_FIELDS, sorted by (reference_key, rank)
manifest.json     the model, both sides' embeddings and sources, and the checksum of matches.parquet
"""

import hashlib
import io
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gesso import storage
from gesso.dataset import identity
from gesso.dataset.layout import MANIFEST
from gesso.dataset.schemas import MATCH_FIELDS
from gesso.errors import UserError

Json = dict[str, Any]

MATCHES = "matches.parquet"
VIEW = pa.schema(MATCH_FIELDS).field("reference_view")


class Overlap(NamedTuple):
    """What `gesso match` found; `matches` has the columns schemas.MATCH_FIELDS. The manifest's paths are absolute."""

    path: str
    manifest: Json
    matches: pa.Table

    @property
    def model(self) -> Json:
        return dict(self.manifest["model"])

    @property
    def views(self) -> int:
        """Of each reference; one in matches of before there were several."""
        return int(self.manifest.get("reference", {}).get("views", 1))

    @property
    def sha256(self) -> str:
        return str(self.manifest["files"][MATCHES]["sha256"])


def read(path: str) -> Overlap:
    """Raises UserError where the directory holds no finished matches, or they differ from its manifest."""
    if not storage.exists(storage.join(path, MANIFEST)):
        raise UserError(f"{path} holds no finished matches: give the --output of a finished `gesso match`")
    manifest = storage.read_json(storage.join(path, MANIFEST))
    if manifest.get("kind") != "matches":
        raise UserError(
            f"{path} holds {manifest.get('kind', 'a dataset')}, not matches: give the --output of `gesso match`"
        )
    manifest = identity.with_paths(manifest, partial(identity.resolve, output=path))
    return Overlap(path, manifest, read_matches(path, manifest["files"][MATCHES]["sha256"]))


def read_matches(path: str, sha256: str) -> pa.Table:
    """The table. Raises UserError where its checksum is not the manifest's."""
    name = storage.join(path, MATCHES)
    again = f"run `gesso match` again with another --output than {path}"
    try:
        with storage.open_input(name) as stream:
            body = stream.read()
    except OSError as error:
        raise UserError(f"{name} cannot be read ({error.strerror or error}): {again}") from error
    if hashlib.sha256(body).hexdigest() != sha256:
        raise UserError(f"{name} differs from its {MANIFEST}: {again}")
    table = pq.read_table(io.BytesIO(body))
    if VIEW.name not in table.column_names:  # written before there were views
        table = table.append_column(VIEW, pa.array(np.zeros(table.num_rows, np.int32)))
    return table.select([field.name for field in MATCH_FIELDS]).combine_chunks()
