"""What an interrupted command exits with (a real process, and a bus that greets and then says nothing)."""

import os
import signal
import socket
import subprocess
import sys

import pytest

UNANSWERED = [["status", "m", "--follow", "--until", "finished"], ["alerts"], ["events"]]
INFO = b'INFO {"server_id": "silent", "version": "2.10.0", "max_payload": 1048576, "headers": true, "proto": 1}\r\n'
RUN = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from clients.cli.main import main; main()"
)
"""The command, also where the tests run in the background of a shell, which ignores the signal."""


@pytest.fixture(scope="module")
def silent_bus():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        yield server


def interrupt(silent_bus, arguments, folder):
    """Return the exit code of a command that is interrupted while it waits for the bus."""
    address = f"nats://127.0.0.1:{silent_bus.getsockname()[1]}"
    environment = {**os.environ, "SLIPWAY_NATS_URL": address, "SLIPWAY_S3_ENDPOINT": "http://127.0.0.1:1"}
    command = [sys.executable, "-c", RUN, *arguments]
    process = subprocess.Popen(command, env={**environment, "HOME": str(folder)}, stderr=subprocess.DEVNULL)
    try:
        connection, _ = silent_bus.accept()
        with connection:
            connection.sendall(INFO)
            while b"PING" not in connection.recv(4096):  # an interrupt while it connects may be lost (Python 3.11)
                pass
            process.send_signal(signal.SIGINT)
            return process.wait(20)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("arguments", UNANSWERED, ids=" ".join)
def test_an_interrupted_command_that_has_not_answered_does_not_report_success(silent_bus, arguments, tmp_path):
    assert interrupt(silent_bus, arguments, tmp_path) == 130


def test_following_without_an_end_is_ended_by_an_interrupt(silent_bus, tmp_path):
    assert interrupt(silent_bus, ["status", "m", "--follow"], tmp_path) == 0
