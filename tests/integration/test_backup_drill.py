"""The drill: an installation is backed up while it runs, goes on, is destroyed, restored, and finishes what it began."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from testbed import forked
from testbed.models import tiny_base, tiny_lora
from testbed.servers import wait_until
from testbed.stack import ROOT, Stack

pytestmark = [pytest.mark.real, pytest.mark.full, pytest.mark.usefixtures("engine_environment")]


def slipway(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clients.cli.main", *arguments]
    done = forked.run(command, environment=os.environ, cwd=ROOT, timeout_s=240)
    assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tiny_base(folder / "tiny-llama")
    for seed in (1, 2, 3):
        tiny_lora(folder / "tiny-llama", folder / f"lora-{seed}", seed=seed)
    return folder


@pytest.mark.timeout(600)
def test_what_was_backed_up_is_served_again_and_a_release_half_way_is_finished(models, tmp_path):
    state, kept, keys = tmp_path / "state", tmp_path / "backups", tmp_path / "keys"
    with Stack(state) as stack:
        stack.ok("base", "import", str(models / "tiny-llama"))
        stack.publish("tiny", models / "lora-1", "--variant", "bf16")
        stack.promoted("tiny")
        before, ports = stack.route("tiny"), json.loads((state / "stack.json").read_text())["ports"]
        stack.publish("tiny", models / "lora-2", "--variant", "bf16")
        stack.await_event("checkpoint.merged", "tiny", count=2)
        first = json.loads(stack.ok("backup", str(kept), "--json"))
        again = json.loads(stack.ok("backup", str(kept), "--json"))
        assert first["objects"] > 20
        assert again["new_bytes"] < first["new_bytes"] / 2  # the release that goes on writes more
        stack.publish("tiny", models / "lora-3", "--variant", "bf16")  # after the backup: it is lost
        wait_until(lambda: len(stack.events("release.opened", "tiny")) == 3, what="the third release being opened")
        assert "is up" in slipway("restore", str(kept), "--state", str(state), code=1).stderr
    shutil.copytree(state / "keys", keys, symlinks=True)
    shutil.rmtree(state)
    state.mkdir(mode=0o700)
    keys.replace(state / "keys")

    chosen = ("--backup", first["backup"], "--digest", first["digest"])
    began_s = time.monotonic()
    slipway("restore", str(kept), *chosen, "--state", str(state))
    print(
        f"{first['objects']} objects, {first['new_bytes']} bytes of them: restored in {time.monotonic() - began_s:.1f} s"
    )
    assert "not empty" in slipway("restore", str(kept), *chosen, "--state", str(state), code=1).stderr
    with Stack(state) as stack:
        second = {**before["active"]["target"], "version": 2}  # once the release that was half way has ended
        assert stack.route("tiny")["active"]["target"] in (before["active"]["target"], second)
        assert json.loads((state / "stack.json").read_text())["ports"] == ports, "routes name them"
        wait_until(lambda: stack.slipway("ask", "tiny", "hello", "--max-tokens", "4").returncode == 0, timeout_s=120)
        print(f"answered {time.monotonic() - began_s:.1f} s after the restore began, the start of the stack included")
        stack.promoted("tiny")
        assert stack.route("tiny")["active"]["target"]["version"] == 2
        assert "pass" in stack.ok("verify", "tiny@v2")
        stack.publish("tiny", models / "lora-3", "--variant", "bf16")
        (_, _, third) = stack.await_event("release.opened", "tiny", count=3)
        assert third["data"]["version"] == 3
        stack.ok("audit")
