"""Ports of servers of tests and of stacks: no process is given one of another, though nothing listens there yet."""

import socket
import subprocess
import sys

import pytest

from testbed import ports
from testbed.ports import free_port

OF_TESTS = "from testbed.ports import free_port; ports = [free_port() for _ in range(150)]"
OF_STACKS = "from deploy.local.ports import choose_ports; ports = choose_ports(map(str, range(300)), {}).values()"


def ask(command: str) -> subprocess.Popen[str]:
    """Start a process that takes ports, prints them, and keeps them until its standard input ends."""
    command += "; import sys; print(*ports, flush=True); sys.stdin.read()"
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", command], stdin=pipe, stdout=pipe, text=True)


@pytest.mark.parametrize(("command", "number"), [(OF_TESTS, 450), (OF_STACKS, 900)], ids=["tests", "stacks"])
def test_processes_that_ask_at_the_same_time_share_no_port(command, number):
    asking = [ask(command) for _ in range(3)]
    given = [int(port) for process in asking for port in process.stdout.readline().split()]
    for process in asking:
        process.communicate("")
    assert len(set(given)) == len(given) == number


def test_one_that_something_listens_on_is_not_given(monkeypatch):
    taken = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setattr(ports, "FIRST_PORT", taken.getsockname()[1])
    monkeypatch.setattr(ports, "LAST_PORT", taken.getsockname()[1])
    with taken, pytest.raises(RuntimeError, match="is free"):
        free_port()


def test_what_a_killed_process_kept_is_free_again(monkeypatch):
    asking = ask(OF_TESTS)
    port = int(asking.stdout.readline().split()[0])
    monkeypatch.setattr(ports, "FIRST_PORT", port)
    monkeypatch.setattr(ports, "LAST_PORT", port)
    with pytest.raises(RuntimeError, match="is free"):
        free_port()
    asking.kill()
    asking.communicate()
    assert free_port() == port
