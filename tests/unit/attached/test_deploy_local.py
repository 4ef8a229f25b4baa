"""The example's script for servers on this machine: it replaces its own server, and ends no other process."""

import os
import signal
import subprocess
import sys

import pytest

from testbed.ports import free_port
from testbed.servers import accepts, wait_until

SERVER = """
import socketserver, sys
socketserver.TCPServer.allow_reuse_address = True
socketserver.TCPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), None).serve_forever()
"""


class Deploy:
    """Runs the script for one address; each server is a process that only listens."""

    def __init__(self, folder):
        self._folder, self._port, self.pids = folder, free_port(), []
        self.pid_file = folder / f"{self._port}.pid"
        (folder / "serve.py").write_text(SERVER)

    def run(self, name):
        """Deploy a version; return the number of its server."""
        urls = [f"http://127.0.0.1:{self._port}"]
        command = ["examples/attached/deploy_local.sh", "green", str(self._folder / name), name, *urls]
        environment = {**os.environ, "SERVE": f"{sys.executable} {self._folder / 'serve.py'}"}
        subprocess.run(command, env=environment, check=True, timeout=60)
        self.pids.append(int(self.pid_file.read_text()))
        wait_until(lambda: accepts(self._port), timeout_s=60, what="the server")
        return self.pids[-1]


@pytest.fixture
def deploy(tmp_path):
    deploy = Deploy(tmp_path)
    yield deploy
    for pid in deploy.pids:
        if is_there(pid):
            os.killpg(pid, signal.SIGKILL)


def is_there(pid):
    """Return whether a process runs that names a port: one that has ended may be a zombie of its parent."""
    done = subprocess.run(["ps", "-ww", "-o", "args=", "-p", str(pid)], check=False, capture_output=True, text=True)
    return "--port" in done.stdout


def test_the_next_version_takes_the_place_of_the_one_before(deploy):
    first = deploy.run("bot.v1.bf16")
    second = deploy.run("bot.v2.bf16")
    assert (is_there(first), is_there(second)) == (False, True)


def test_a_process_that_got_the_number_of_a_server_that_ended_is_left_alone(deploy):
    with subprocess.Popen(
        [sys.executable, "-c", "input()", "--port", "1"], stdin=subprocess.PIPE, start_new_session=True
    ) as other:
        deploy.pid_file.write_text(str(other.pid))
        deploy.run("bot.v1.bf16")
        assert other.poll() is None
        other.kill()
