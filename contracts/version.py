"""The version of Slipway: of its distributions, its command line and its images."""

VERSION = "0.1.0"
"""A semantic version; docs/releasing.md says what a breaking change is."""
CONTRACTS = "v1"
"""The version of all events (docs/adr/0010)."""
