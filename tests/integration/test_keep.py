"""What keeps a program in its container: hangs end it, signals reach it, its exit code is the container's."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shared.runtime.process import child_command
from testbed.ports import free_port
from testbed.servers import wait_until

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import http.server, os, signal, sys, time
port, pid_file, how = int(sys.argv[1]), sys.argv[2], sys.argv[3]
open(pid_file, "w").write(str(os.getpid()))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
signal.signal(signal.SIGHUP, lambda *_: open(pid_file + ".again", "w").close())
if how == "never":
    time.sleep(600)

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        open(pid_file + ".asked", "w").close()
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

http.server.HTTPServer(("127.0.0.1", port), Answer).serve_forever()
"""


LOST = """
import http.server, signal, sys

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        text = b"JetStream stream '$G > KV_routes' write error: no space left on device"
        self.send_response(503 if self.path == "/healthz" else 200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""


def test_a_bus_that_has_given_up_a_stream_ends_its_container_once_its_disk_has_space(tmp_path):
    port = free_port()
    keeper = [sys.executable, "-m", "deploy.docker.keep", f"--url=http://127.0.0.1:{port}/healthz?js-enabled-only=true"]
    program = [sys.executable, "-I", "-S", "-c", LOST, str(port)]
    command = child_command([*keeper, f"--bus-store={tmp_path}", "--", *program])
    done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 7, done.stderr
    assert "it is started again" in done.stderr


class KeptProgram:
    def __init__(self, folder: Path, keeper: str, how: str = "serve") -> None:
        port, self.file = free_port(), folder / "pid"
        url = f"http://127.0.0.1:{port}/healthz"
        program = [sys.executable, "-I", "-S", "-c", PROGRAM, str(port), str(self.file), how]
        if keeper == "python":
            start = [sys.executable, "-m", "deploy.docker.keep", f"--url={url}", "--start-s=3", "--"]
        else:
            start = ["/bin/sh", str(ROOT / "deploy/docker/keep.sh"), "3", f"curl -sf -m 5 -o /dev/null {url}"]
        self.log = folder / "log"
        command = child_command([*start, *program])
        before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, which children inherit
        try:
            with self.log.open("wb") as log:
                self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        finally:
            signal.signal(signal.SIGHUP, before)

    def pid(self) -> int:
        return int(wait_until(lambda: self.file.exists() and self.file.read_text(), what="the program"))

    def asked(self) -> None:
        wait_until((self.file.parent / "pid.asked").exists, what="the first question")


@pytest.fixture(params=["python", "sh"])
def keep(request, tmp_path):
    kept = []

    def start(how="serve") -> KeptProgram:
        kept.append(KeptProgram(tmp_path, request.param, how))
        return kept[-1]

    yield start
    for program in kept:
        if program.process.poll() is None:
            os.kill(program.pid(), signal.SIGKILL)
            program.process.wait(10)


def test_a_program_that_hangs_ends_its_container(keep):
    kept = keep()
    kept.asked()
    os.kill(kept.pid(), signal.SIGSTOP)
    assert kept.process.wait(60) == 137
    assert "is killed" in kept.log.read_text()


def test_a_program_that_never_answers_ends_its_container(keep):
    kept = keep("never")
    assert kept.process.wait(20) == 137


def test_a_stop_reaches_the_program_and_its_exit_code_is_kept(keep):
    kept = keep()
    kept.asked()
    kept.process.send_signal(signal.SIGTERM)
    assert kept.process.wait(10) == 7
    assert not (Path("/proc") / str(kept.pid())).exists()


def test_a_hangup_reaches_the_program_which_runs_on_and_is_still_watched(keep):
    kept = keep()
    kept.asked()
    kept.process.send_signal(signal.SIGHUP)
    wait_until((kept.file.parent / "pid.again").exists, what="the signal in the program")
    (kept.file.parent / "pid.asked").unlink()
    kept.asked()  # it is still watched
    assert kept.process.poll() is None
    assert (Path("/proc") / str(kept.pid())).exists()
    os.kill(kept.pid(), signal.SIGSTOP)
    assert kept.process.wait(20) == 137


def test_a_program_that_dies_ends_its_container_with_the_signals_code(keep):
    kept = keep()
    kept.asked()
    os.kill(kept.pid(), signal.SIGSEGV)
    assert kept.process.wait(10) == 139
