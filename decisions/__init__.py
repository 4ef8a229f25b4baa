"""Decisions that several parts share, as pure functions: no clock, no randomness, no I/O; one folder for each subject."""
