"""`slipway up` whose parts are forked, for `ForkedProcess`: its arguments are those of `slipway`.

Before the supervisor has threads, it forks a process that forks its parts: so all share what `testbed.forked` imports.
Each part is a child of the supervisor, as one that it starts itself; its first environment is not its own, so it is
known by its session and its folder only. Tests of `slipway up` itself start it as a person does.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, cast

from clients.cli.main import main as run_command
from deploy.local.runner import Runner
from shared.runtime.process import child_command
from testbed.forked import become

LAUNCHER = len(child_command([]))
PYTHON = (sys.executable, "-m")


class Child:
    """A child of this process that another one forked; the methods are those of `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self._collect(os.WNOHANG)

    def wait(self) -> int | None:
        return self._collect(0)

    def _collect(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class Forks:
    """Starts the parts: modules of ours by a request to the process that forks, all others as the supervisor does."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel

    def popen(self, command: Sequence[str], **how: Any) -> "subprocess.Popen[bytes]":
        argv = command[LAUNCHER:]
        if tuple(argv[:2]) != PYTHON:
            return subprocess.Popen(command, **how)
        log = str(how["stdout"].name)
        self._channel.sendall(json.dumps([argv[2:], how["env"], str(how["cwd"]), [log, log]]).encode() + b"\n")
        return cast("subprocess.Popen[bytes]", Child(int(self._channel.recv(64))))


def next_part(channel: socket.socket, supervisor: int) -> list[Any]:
    """Return, in a new child of the supervisor, which part it is to become; this process forks until its end."""
    for line in channel.makefile():
        if (between := os.fork()) == 0:
            if os.fork() != 0:
                os._exit(0)  # so the supervisor, which adopts orphans, becomes its parent
            os.setsid()
            while os.getppid() != supervisor:
                time.sleep(0.001)
            channel.sendall(str(os.getpid()).encode())
            return cast("list[Any]", json.loads(line))
        os.waitpid(between, 0)
    os._exit(0)


def forks() -> Forks:
    """Return what starts parts; it is called before this process has threads. In a part it never returns."""
    own, others = socket.socketpair()
    supervisor = os.getpid()
    if os.fork() == 0:
        own.close()
        become(supervisor, *next_part(others, supervisor))
        sys.exit()
    others.close()
    return Forks(own)


def main() -> None:
    """Run `slipway` with the arguments of this program."""
    os.setsid()
    Runner.popen = forks().popen
    run_command()


if __name__ == "__main__":
    main()
