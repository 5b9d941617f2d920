"""Samples of an export: which comes when, read, decoded, altered. No torch but in loader.py."""
