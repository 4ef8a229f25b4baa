import contextlib
import io
from pathlib import Path

import pytest

from deploy.local.view import View, render_line


@pytest.mark.parametrize(
    ("part", "line", "shown"),
    [
        ("nats", "[7] 2026/11/24 15:44:38.1 [INF] Server is ready", False),
        ("nats", "[7] 2026/11/24 15:44:38.1 [ERR] bad", True),
        (
            "nats-2",
            "[7] 2026/11/24 15:44:38.1 [WRN] JetStream stream '$G > KV_routes' is not current: unhealthy",
            False,
        ),
        ("nats", "[7] 2026/11/24 15:44:38.1 [WRN] RAFT [a - _meta_] Health check OK, no longer falling behind", False),
        ("nats", "[7] 2026/11/24 15:44:38.1 [INF] 127.0.0.1:1 - rid:1 - Router connection closed: Read Error", False),
        ("nats-2", "[7] 2026/11/24 15:44:38.1 [ERR] 127.0.0.1:1 - rid:5 - TLS route handshake error: bad", True),
        ("s3", "E1124 15:44:38.4 7 volume.go:1] health check of the volume failed: the store is closed", True),
        ("triton", "E1124 15:44:38.4 14333 server.cc:1] the model is not current", True),
        ("triton", "I1124 15:44:38.4 14333 server.cc:1] all is well", False),
        ("triton", "E1124 15:44:38.4 14333 server.cc:1] broken", True),
        ("triton", 'E1124 1 server.cc:241] "CudaDriverHelper has not been initialized."', False),
        ("s3", "  Master       ready     0.0s", False),
        ("gateway", "  Master       ready     0.0s", True),
    ],
)
def test_of_foreign_parts_only_problems_are_shown(part, line, shown):
    assert (render_line(part, line) is not None) is shown


def test_only_whole_new_lines_are_printed(tmp_path):
    log, out = tmp_path / "merger.log", io.StringIO()
    log.write_text("old\n")
    view = View(quiet=False, out=out)
    view.begin_at_end([log, tmp_path / "later.log"])
    with log.open("a") as file:
        file.write("first\nsec")
    view.print_new()
    with log.open("a") as file:
        file.write("ond\n")
    (tmp_path / "later.log").write_text("new part\n")
    view.print_new()
    assert [line.split(maxsplit=1) for line in out.getvalue().splitlines()] == [
        ["merger", "first"],
        ["merger", "second"],
        ["later", "new part"],
    ]


def test_a_log_that_was_begun_anew_is_read_from_its_start(tmp_path):
    log, out = tmp_path / "merger.log", io.StringIO()
    log.write_text("a long line of an earlier run\n")
    view = View(quiet=False, out=out)
    view.begin_at_end([log])
    log.write_text("short\n")
    view.print_new()
    assert out.getvalue().split() == ["merger", "short"]


@pytest.mark.parametrize("closed", [False, True], ids=["full", "closed"])
def test_an_output_that_takes_nothing_more_ends_nothing(tmp_path, closed):
    """As on a full disk, or in `slipway up | head`: output is lost, and the writer continues."""
    log, out = tmp_path / "gateway.log", Path("/dev/full").open("w")  # noqa: SIM115 - closing it may fail, too
    if closed:
        out.close()
    log.write_text("")
    view = View(quiet=False, out=out)
    try:
        view.begin_at_end([log])
        view.print_line("gateway", "ready on port 1")
        log.write_text("a line\n")
        view.print_new()
    finally:
        with contextlib.suppress(OSError):
            out.close()
