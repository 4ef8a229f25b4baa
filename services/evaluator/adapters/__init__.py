"""Adapters, one technology per file."""
