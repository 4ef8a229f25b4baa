"""The version of Slipway: of its distributions, its command line and its images."""

VERSION = "0.1.0"
"""Semantic version (docs/releasing.md)."""
CONTRACTS = "v1"
"""Version of all events (docs/adr/0010)."""
