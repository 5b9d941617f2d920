"""Record batches as compressed bytes, the form in which rows cross a shuffle. No Beam."""

import pyarrow as pa


def pack(batch: pa.RecordBatch) -> bytes:
    """Eight bytes with the uncompressed size, then the batch without its schema, compressed with Zstandard."""
    plain = batch.serialize()
    return plain.size.to_bytes(8, "big") + pa.compress(plain, "zstd", asbytes=True)


def unpack(packed: bytes, schema: pa.Schema) -> pa.RecordBatch:
    """The batch that `pack` was given; `schema` is its schema."""
    plain = pa.decompress(memoryview(packed)[8:], int.from_bytes(packed[:8], "big"), "zstd")
    return pa.ipc.read_record_batch(plain, schema)
