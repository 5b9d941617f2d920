"""What crosses a shuffle: record batches of text and numbers as compressed bytes. No Beam."""

import pyarrow as pa


def pack(batch: pa.RecordBatch) -> bytes:
    """A batch without its schema, compressed by Zstandard, behind eight bytes of its length."""
    plain = batch.serialize()
    return plain.size.to_bytes(8, "big") + pa.compress(plain, "zstd", asbytes=True)


def unpack(packed: bytes, schema: pa.Schema) -> pa.RecordBatch:
    plain = pa.decompress(memoryview(packed)[8:], int.from_bytes(packed[:8], "big"), "zstd")
    return pa.ipc.read_record_batch(plain, schema)
