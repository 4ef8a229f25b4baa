"""When the bus is started again after its disk was full, and what becomes of the reserve."""

import contextlib
import os
import resource
import signal
import socketserver
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.docker.keep import LIMITS, LivenessProbe
from deploy.local.full_disk import (
    DELAY_S,
    ENOUGH_BYTES,
    RESERVE,
    RESERVE_BYTES,
    Restarts,
    look,
    lost_stream,
    make_reserve,
    plan,
    space_of,
)
from deploy.local.watch import HangDetector


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


@contextlib.contextmanager
def answering(answer: bytes):
    """Yield the URL of a server that sends these bytes to each connection and closes it."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(4096)
            self.request.sendall(answer)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


WRITE_ERROR = b"HTTP/1.1 503 Unavailable\r\nContent-Length: %d\r\n\r\nstream routes: write error"


def test_a_write_error_is_read_from_the_health_of_the_server():
    with answering(WRITE_ERROR % 26) as url:
        assert lost_stream(url) == "stream routes: write error"


@pytest.mark.parametrize("answer", [WRITE_ERROR % 100, b"HTTP/1.1 5", b"no HTTP\r\n\r\n", b""])
def test_an_answer_that_breaks_off_names_no_lost_stream(answer):
    with answering(answer) as url:
        assert lost_stream(url) is None


@pytest.mark.parametrize("answer", [b"HTTP/1.1 5", b"no HTTP\r\n\r\n", b""])
def test_an_answer_that_breaks_off_ends_no_liveness_probe_and_counts_as_none(answer):
    detector = HangDetector(LIMITS, 60.0)
    with answering(answer) as url:
        LivenessProbe(url, detector).probe()
    assert not detector.has_answered


@pytest.mark.parametrize("left_bytes", [0, RESERVE_BYTES - 1])
def test_a_reserve_that_was_not_completed_is_completed(tmp_path, left_bytes):
    path = tmp_path / RESERVE
    with path.open("wb") as file:
        file.truncate(left_bytes)
    assert look("http://127.0.0.1:1", tmp_path, Restarts()) is None
    assert path.stat().st_blocks * 512 >= RESERVE_BYTES
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("left_bytes", [0, 4096])
def test_what_a_killed_process_left_of_a_reserve_is_taken_over(tmp_path, left_bytes):
    path = tmp_path / RESERVE
    path.with_name(f"{RESERVE}.partial").write_bytes(bytes(left_bytes))
    make_reserve(path)
    assert path.stat().st_blocks * 512 >= RESERVE_BYTES
    assert list(tmp_path.iterdir()) == [path]


def test_where_the_space_is_not_there_nothing_is_left(tmp_path):
    path = tmp_path / RESERVE
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        make_reserve(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert list(tmp_path.iterdir()) == []


def test_a_lost_stream_on_a_disk_with_space_restarts_once_and_again_after_two_minutes(tmp_path):
    restarts = Restarts()
    with answering(WRITE_ERROR % 26) as url:
        first = look(url, tmp_path, restarts)
        assert "stream routes: write error" in first
        assert "quota" in first
        assert look(url, tmp_path, restarts) is None
        restarts.last_at = time.monotonic() - DELAY_S
        assert look(url, tmp_path, restarts) is not None
        assert look(url, tmp_path, restarts) is None


@pytest.mark.parametrize(
    ("inodes", "inodes_left", "space"),
    [(100, 1, 40_960), (100, 0, 0), (0, 0, 40_960)],
    ids=["some left", "none left", "a file system that counts none"],
)
def test_without_inodes_there_is_no_space(inodes, inodes_left, space):
    fields = (4096, 4096, 100, 10, 10, inodes, inodes_left, inodes_left, 0, 255)
    assert space_of(os.statvfs_result(fields)) == space


def test_the_space_is_that_of_the_disk(tmp_path):
    status = os.statvfs(tmp_path)
    assert space_of(status) == status.f_bavail * status.f_frsize
