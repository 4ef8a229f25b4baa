"""Measurements behind docs/benchmarks.md: each `bench_*.py` is a program that prints its table."""
