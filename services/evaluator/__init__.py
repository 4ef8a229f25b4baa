"""Sends a set of rows to a staged candidate and the active version, and scores their answers."""
