"""Captions → token ids: byte-level BPE."""
