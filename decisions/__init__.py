"""Decisions that several parts share, as pure functions: no clock, no randomness, no I/O; a folder for each subject."""
