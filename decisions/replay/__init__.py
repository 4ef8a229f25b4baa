"""Recorded traffic through the triggers of another policy."""
