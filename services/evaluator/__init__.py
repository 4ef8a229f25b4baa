"""Asks a staged candidate and the active version what a set of rows asks, and scores their answers."""
