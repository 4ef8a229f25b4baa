"""How many connections are taken with the files that the process may have open."""

import resource

import pytest

from services.gateway.adapters.http_protocol import BACKLOG, fit_connections


@pytest.fixture
def files():
    """Sets the soft limit of open files, and sets it back."""
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield lambda soft: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))


def test_the_limit_of_files_is_raised_to_fit_the_connections(files):
    files(900)
    assert fit_connections(300) == 300
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= 300 + BACKLOG


def test_fewer_connections_are_taken_where_the_files_do_not_suffice(files):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = 2**20
    assert fit_connections(2 * hard) < hard
