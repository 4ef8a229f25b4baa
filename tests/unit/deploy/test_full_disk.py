"""When the bus is started again after its disk was full, and what becomes of the reserve."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.local.full_disk import ENOUGH_BYTES, RESERVE_BYTES, make_reserve, plan


@pytest.mark.parametrize(
    ("lost", "free_bytes", "has_reserve", "step"),
    [
        (True, 0, True, "release"),
        (True, 0, False, "none"),
        (True, ENOUGH_BYTES, False, "restart"),
        (True, ENOUGH_BYTES, True, "restart"),
        (False, 0, True, "none"),
        (False, 0, False, "none"),
        (False, ENOUGH_BYTES + RESERVE_BYTES, False, "reserve"),
        (False, ENOUGH_BYTES + RESERVE_BYTES - 1, False, "none"),
    ],
)
def test_the_step_follows_from_the_server_and_its_disk(lost, free_bytes, has_reserve, step):
    assert plan(lost=lost, free_bytes=free_bytes, has_reserve=has_reserve) == step


@given(st.integers(0, 2 * RESERVE_BYTES), st.booleans())
def test_a_disk_that_stays_full_ends_the_server_once_at_most(free_bytes, has_reserve):
    """The server gives up a stream again after each start."""
    ends = 0
    for _ in range(5):
        free_bytes = min(free_bytes, ENOUGH_BYTES - 1)
        step = plan(lost=True, free_bytes=free_bytes, has_reserve=has_reserve)
        ends += step in ("restart", "release")
        if step == "release":
            has_reserve, free_bytes = False, 0  # the space is filled by another program
    assert ends <= 1


def test_the_reserve_takes_its_space_and_one_that_is_there_stays(tmp_path):
    path = tmp_path / "reserve"
    make_reserve(path)
    assert path.stat().st_blocks * 512 >= RESERVE_BYTES
    assert path.stat().st_mode & 0o777 == 0o600
    os.utime(path, (1, 1))
    make_reserve(path)
    assert path.stat().st_mtime == 1


def test_where_there_is_no_folder_there_is_no_reserve(tmp_path):
    make_reserve(tmp_path / "none" / "reserve")
    assert list(tmp_path.iterdir()) == []
