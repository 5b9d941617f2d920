"""Shards → models → pictures. No Beam, nothing of dedup."""
