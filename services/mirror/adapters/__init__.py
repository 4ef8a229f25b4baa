"""Adapters of the mirror, one file per technology."""
