"""Where the search for garbage does harm: while tests are collected, and while a report is made.

Collecting without it takes a quarter of the processor time less in each worker. A report parses the source of what
failed; Python 3.11 fails with a SystemError when garbage formats a traceback meanwhile, since that parses source too.
"""

import gc

import pytest

from shared.runtime.program_imports import finish_imports


def pytest_configure():
    """Stop the search until all tests are collected: modules and tests stay until the end."""
    gc.disable()


def pytest_collection_finish():
    """Search again, but never among what was collected."""
    finish_imports()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport():
    """Make a report without the search."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
