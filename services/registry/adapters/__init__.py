"""Adapters of the registry, one technology per file."""
