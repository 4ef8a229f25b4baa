"""The guard that ends a stub whose server is gone: on real processes, without Triton."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

GUARD = Path(__file__).resolve().parents[3] / "deploy" / "backends" / "stub_guard.py"


@pytest.fixture
def trio():
    """A server, a stub that ignores SIGTERM, and the guard of both."""
    sleeper = [sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"]
    server, stub = subprocess.Popen(sleeper), subprocess.Popen(sleeper)
    guard = subprocess.Popen([sys.executable, "-S", "-E", str(GUARD), str(server.pid), str(stub.pid)])
    yield server, stub, guard
    for process in (server, stub, guard):
        process.kill()
        process.wait()


def test_a_stub_does_not_outlive_its_killed_server(trio):
    server, stub, guard = trio
    server.kill()
    server.wait()
    assert stub.wait(15) == -signal.SIGKILL
    assert guard.wait(15) == 0


def test_the_guard_leaves_with_its_stub_and_leaves_the_server_alone(trio):
    server, stub, guard = trio
    stub.kill()
    stub.wait()
    assert guard.wait(15) == 0
    assert server.poll() is None


def test_both_stay_while_both_live(trio):
    server, stub, guard = trio
    with pytest.raises(subprocess.TimeoutExpired):
        guard.wait(3)
    assert (server.poll(), stub.poll()) == (None, None)
