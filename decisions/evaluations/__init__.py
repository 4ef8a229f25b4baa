"""Evaluations: rows of a set, tests of limits row by row, verdicts, and how policies compare. Pure."""
