"""kill -9 of the servers that all services need: the release completes, and serving recovers without an operator."""

import asyncio
import contextlib
import json
import os
import signal
import time

import psutil
import pytest
from nats.js.errors import NotFoundError

from clients.cli.connection import find_stack
from contracts.facts import WorkProgressed
from contracts.services import TELEMETRY
from shared.messaging.credentials import connect
from testbed.models import edit_json, tiny_base, tiny_lora
from testbed.servers import wait_until
from tests.chaos.answers import answers

pytestmark = [pytest.mark.real, pytest.mark.full, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def stack(module_stack):
    """One stack for all of them: each leaves every part ready."""
    return module_stack()


@pytest.fixture(scope="module")
def served(stack, tiny):
    """A model in production, for the tests that need one which is served."""
    stack.publish("served", tiny["one"], "--variant", "bf16")
    stack.promoted("served")
    return "served"


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A base of some 100 MB, so that an upload takes long enough to be hit."""
    folder = tmp_path_factory.mktemp("wide")
    base = tiny_base(folder / "wide-llama", hidden=2048, layers=2)
    lora = tiny_lora(base, folder / "lora")
    edit_json(lora / "adapter_config.json", base_model_name_or_path="acme/wide-llama")
    return {"base": base, "lora": lora}


async def publish_until_uploading(stack, wide) -> None:
    """Publish, and come back when every tensor is merged, so that the upload of their one shard is under way."""
    client = await connect(find_stack(stack.state).connection)
    progressed = await client.subscribe(f"{WorkProgressed.TYPE}.wide.*")
    await asyncio.to_thread(stack.publish, "wide", wide["lora"], "--variant", "bf16", base="wide-llama")
    async with asyncio.timeout(120):
        async for message in progressed.messages:
            progress = json.loads(message.data)["data"]
            if progress["step"] == "merge" and progress["done"] == progress["total"]:
                break
    await client.close()


def test_the_bus_is_killed_three_times_on_the_way(stack, tiny):
    stack.publish("courier", tiny["one"], "--variant", "bf16")
    for fact in ("release.opened", "checkpoint.merged", "version.registered"):
        stack.await_event(fact, "courier")
        stack.kill("nats")
    stack.promoted("courier")
    for fact in ("release.opened", "checkpoint.merged", "version.registered", "release.finished"):
        assert len(stack.events(fact, "courier")) == 1, fact
    assert answers(stack, "courier") == "courier.v1.bf16"
    asyncio.run(telemetry_arrives(stack))


async def telemetry_arrives(stack) -> None:
    """Wait until the gateway's telemetry is stored again: its stream is in memory and went with the bus."""
    client = await connect(find_stack(stack.state).connection)
    js = client.jetstream()
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(NotFoundError):
                if (await js.stream_info(TELEMETRY)).state.messages:
                    break
            await asyncio.sleep(0.2)
    await client.close()


def test_the_store_is_killed_during_an_upload(stack, wide):
    stack.ok("base", "import", str(wide["base"]))
    asyncio.run(publish_until_uploading(stack, wide))
    stack.kill("s3")
    stack.promoted("wide", timeout_s=400)
    assert len(stack.events("checkpoint.merged", "wide")) == 1
    assert stack.check_artifacts() > 0
    assert answers(stack, "wide") == "wide.v1.bf16"


def test_serving_comes_back_after_triton_or_a_stub_was_killed(stack, served):
    assert answers(stack, served) == "served.v1.bf16"

    stack.kill("triton")
    wait_until(lambda: answers(stack, served) == "served.v1.bf16", timeout_s=90, what="serving after Triton was killed")

    for pid in stubs(stack, "served.v1.bf16"):
        os.kill(pid, signal.SIGKILL)
    wait_until(
        lambda: answers(stack, served) == "served.v1.bf16", timeout_s=90, what="serving after its stub was killed"
    )


def stubs(stack, name: str) -> list[int]:
    """Return the processes that serve one model."""
    pids = []
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        if name in command and str(stack.state) in command:
            pids.append(process.pid)
    assert pids, f"nothing serves {name}"
    return pids


def test_requests_go_on_while_everything_but_serving_is_down(stack, served):
    assert answers(stack, served) == "served.v1.bf16"
    before = {name: stack.part(name)["pid"] for name in ("nats", "s3", "registry", "server-manager")}
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    ends = time.monotonic() + 3
    while time.monotonic() < ends:
        assert answers(stack, served) == "served.v1.bf16"
