"""The disk under the store, or the folders of the engine, is full in a release: serving and rollbacks go on."""

import contextlib
import json

import pytest

from testbed.models import tiny_lora
from testbed.servers import wait_until
from testbed.stack import Stack
from testbed.users import Users
from tests.kit.small_disk import small_disks

pytestmark = [pytest.mark.real, pytest.mark.full, pytest.mark.timeout(600)]
SIZES = {"s3": 100, "artifacts": 40, "triton": 60}
"""MiB of the disk of each folder in the state folder."""


@pytest.fixture(scope="module")
def small(tmp_path_factory, tiny):
    """A stack with disks of their own for the store and for what Triton loads."""
    state = tmp_path_factory.mktemp("small") / "state"
    with small_disks({state / name: size for name, size in SIZES.items()}) as disks:
        stack = Stack(state)
        stack.prefix = tuple(disks[0].prefix)
        with stack:
            stack.ok("base", "import", str(tiny["base"]))
            yield stack, dict(zip(SIZES, disks, strict=True))


@contextlib.contextmanager
def two_versions(stack, tiny, model):
    """Release two versions of a model, which callers ask all the time: none of their requests may fail."""
    for adapter in (tiny["one"], tiny["two"]):
        stack.publish(model, adapter, "--variant", "bf16")
        stack.promoted(model)
    gateway = f"http://127.0.0.1:{stack.part('gateway')['port']}"
    with Users(gateway, stack.headers, model) as callers:
        yield
    assert callers.failed == []
    assert {f"{model}@v2", f"{model}@v1"} <= set(callers.answered)


def roll_back(stack, model):
    stack.ok("rollback", model, "--reason", "while a disk is full")
    assert stack.route(model)["active"]["target"]["version"] == 1


class Reasons:
    """How often the logs of a stack have had a text from now on."""

    def __init__(self, stack, text):
        self._logs, self._text = stack.state / "logs", text
        self._before = self._count()

    def _count(self):
        return sum(path.read_text(errors="replace").count(self._text) for path in self._logs.glob("*.log"))

    def await_one(self):
        wait_until(lambda: self._count() > self._before, timeout_s=120, what=f"{self._text!r} in a log")


def test_a_release_waits_for_the_store(small, tiny, tmp_path):
    stack, disks = small
    with two_versions(stack, tiny, "served"):
        reasons = Reasons(stack, "its disk may be full, see its log")
        stack.publish("stored", tiny_lora(tiny["base"], tmp_path / "three", seed=7), "--variant", "bf16")
        stack.await_event("release.opened", "stored")
        disks["s3"].fill()
        reasons.await_one()
        roll_back(stack, "served")
        done = stack.slipway("doctor", "--json")
        findings = {finding["check"]: finding for finding in json.loads(done.stdout)["findings"]}
        assert findings["bus disk"]["state"] != "skipped"
        assert stack.events("release.finished", "stored") == []
        disks["s3"].free()
        stack.promoted("stored")


@pytest.mark.parametrize("folder", ["artifacts", "triton"])
def test_what_cannot_be_loaded_is_rejected_with_the_folder_and_can_be_retried(small, tiny, folder):
    stack, disks = small
    model = f"loaded-{folder}"
    with two_versions(stack, tiny, f"served-{folder}"):
        disks[folder].fill()
        stack.publish(model, tiny["one"], "--variant", "bf16")
        (finished,) = stack.await_event("release.finished", model)
        assert finished["data"]["outcome"] == "rejected"
        assert finished["data"]["code"] == "disk_full"
        assert str(stack.state / folder) in finished["data"]["reason"]
        roll_back(stack, f"served-{folder}")
        disks[folder].free()
        stack.ok("retry", f"{model}@v1")
        stack.await_event("release.opened", model, count=2)
        stack.promoted(model)
