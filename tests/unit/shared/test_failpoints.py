"""A failpoint kills the process that reaches it, once."""

import signal
import subprocess
import sys

import pytest

from shared.runtime import failpoints

CHILD = """
import sys
from pathlib import Path
from shared.runtime.failpoints import arm, failpoint
arm(sys.argv[1], Path(sys.argv[2]))
print("armed", flush=True)
failpoint("merger.after_act", "bucket/key")
failpoint("merger.after_publish")
print("survived", flush=True)
"""


def run(specification, folder):
    done = subprocess.run(
        [sys.executable, "-c", CHILD, specification, str(folder)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout.split()


def test_fires_once_with_sigkill_then_never_again(tmp_path):
    assert run("merger.after_act", tmp_path) == (-signal.SIGKILL, ["armed"])
    assert run("merger.after_act", tmp_path) == (0, ["armed", "survived"])


def test_the_marker_names_where_it_fired(tmp_path):
    run("merger.after_act,merger.after_publish", tmp_path)
    run("merger.after_act,merger.after_publish", tmp_path)
    markers = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert markers == {"failpoint-merger.after_act.fired": "bucket/key", "failpoint-merger.after_publish.fired": ""}


def test_several_fire_one_after_the_other(tmp_path):
    both = "merger.after_act, merger.after_publish"
    assert run(both, tmp_path)[0] == -signal.SIGKILL
    assert run(both, tmp_path)[0] == -signal.SIGKILL
    assert run(both, tmp_path) == (0, ["armed", "survived"])


@pytest.mark.parametrize("specification", ["", " , ", "merger", "merger.after", "quantiser.after_act"])
def test_others_do_not_fire(tmp_path, specification):
    assert run(specification, tmp_path) == (0, ["armed", "survived"])


def test_arming_again_disarms_what_was_armed(tmp_path):
    failpoints.arm("x", tmp_path)
    failpoints.arm("", tmp_path)
    failpoints.failpoint("x")
    assert list(tmp_path.iterdir()) == []
