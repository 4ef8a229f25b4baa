"""Ports of test servers: no process is given one that another has, though nothing listens there yet."""

import socket
import subprocess
import sys

import pytest

from testbed import ports
from testbed.ports import free_port

ASK = "from testbed.ports import free_port; import sys; print(*(free_port() for _ in range(40)), flush=True); sys.stdin.read()"


def test_processes_that_ask_at_the_same_time_share_no_port():
    asking = [
        subprocess.Popen([sys.executable, "-c", ASK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    given = [int(port) for process in asking for port in process.stdout.readline().split()]
    for process in asking:
        process.communicate("")
    assert len(set(given)) == len(given) == 120


def test_one_that_something_listens_on_is_not_given(monkeypatch):
    taken = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setattr(ports, "FIRST_PORT", taken.getsockname()[1])
    monkeypatch.setattr(ports, "LAST_PORT", taken.getsockname()[1])
    with taken, pytest.raises(RuntimeError, match="is free"):
        free_port()


def test_what_a_killed_process_kept_is_free_again(monkeypatch):
    asking = subprocess.Popen([sys.executable, "-c", ASK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    port = int(asking.stdout.readline().split()[0])
    monkeypatch.setattr(ports, "FIRST_PORT", port)
    monkeypatch.setattr(ports, "LAST_PORT", port)
    with pytest.raises(RuntimeError, match="is free"):
        free_port()
    asking.kill()
    asking.communicate()
    assert free_port() == port
