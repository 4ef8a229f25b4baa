"""Seed `random` before each test from SLIPWAY_TEST_SEED and the test's name; a failure names the seed."""

import random

import pytest

from tests.kit.soak import SEED


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Seed what draws in this process, in tests and in the product: a second run of the test draws the same."""
    random.seed(f"{SEED} {item.nodeid}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Add the seed to the report of a failure."""
    report = yield
    if report.failed:
        report.sections.append(("Seed", f"SLIPWAY_TEST_SEED={SEED} draws the same numbers from random"))
    return report
