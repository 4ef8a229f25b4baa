"""The version of Slipway: of its distributions, its command line and its images."""

VERSION = "0.1.0"
"""A semantic version; docs/releasing.md says what a breaking change is."""
