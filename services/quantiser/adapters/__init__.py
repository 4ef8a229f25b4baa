"""Adapters, one technology per file; only the worker process imports torch."""
