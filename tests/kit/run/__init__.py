"""Pytest plugins of this project's test run: its lanes, its flaky tests, its costs, and the checks beside it."""
