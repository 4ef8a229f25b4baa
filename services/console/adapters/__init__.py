"""Adapters of the console, one technology per file."""
