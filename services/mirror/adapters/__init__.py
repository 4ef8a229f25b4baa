"""Adapters of the mirror, one technology per file."""
