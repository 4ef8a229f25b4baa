"""Signed statements about artifacts: made, stored, and verified."""
