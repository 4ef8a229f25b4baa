"""Collect the tests without the search for garbage: a quarter of the processor time less in each worker."""

import gc

from shared.runtime.program_imports import finish_imports


def pytest_configure():
    """Stop the search until all tests are collected: modules and tests stay until the end."""
    gc.disable()


def pytest_collection_finish():
    """Search again, but never among what was collected."""
    finish_imports()
