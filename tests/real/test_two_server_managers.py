"""Two server-managers before one Triton: one is paused past its lease, or loses the bus, and the other promotes."""

import asyncio
import contextlib
import signal

import pytest

from contracts.facts import AlertRaised
from services.server_manager.domain.records import Leader
from shared.storage.kv import Bucket
from testbed.attesters import attester_variables
from testbed.relay import relaying
from testbed.servers import connection, running
from tests.kit.serving import ServerManager, managers_of

pytestmark = [pytest.mark.real]
MIB = 1024 * 1024
WATCHED_S = 8.0
"""Longer than the time that an unneeded target stays (1 s) and the lease (6 s) together."""


@pytest.fixture
def relay(nats_server):
    with relaying(nats_server.port) as running_relay:
        yield running_relay


@pytest.fixture
def start(nats_server, s3_server, triton, fleet, tmp_path):
    """Return a server-manager of that name, before it runs."""

    def build(name, **variables):
        settings = connection(nats_server, s3_server, tmp_path / name)
        more = {"engine": "toy", "memory_budget_bytes": 1000 * MIB, "overhead_bytes": 64 * MIB}
        process = ServerManager(tmp_path / name, settings, triton, **more)
        process.variables |= attester_variables(fleet.keys, "services.server_manager.main") | variables
        return process

    return build


@pytest.fixture
def two(start, relay):
    """The first leads and reaches the bus through the relay; the second waits."""
    url = f"tls://127.0.0.1:{relay.port}"
    with running(start("first", SLIPWAY_NATS_URL=url)) as first, running(start("second")) as second:
        yield first, second, relay


async def leader(js):
    entry = await Bucket(js, "servers", Leader).get("main.leader")
    return entry.value if entry else None


def log_of(process):
    return (process.folder / "log").read_text()


@pytest.mark.parametrize("paused", [True, pytest.param(False, marks=pytest.mark.full)], ids=["paused", "cut off"])
async def test_the_holder_before_does_nothing_to_what_the_next_one_set(two, fleet, triton, tmp_path, paused):
    (first, _, relay), js = two, fleet.js
    base, old, new = (fleet.put_toy(tmp_path, "bot", version) for version in range(3))
    await fleet.promote(old, 0, fallback=base)
    await fleet.until(lambda: answered(fleet, 1), what="the first order being answered and forgotten")
    before = await leader(js)
    if paused:
        first.process.send_signal(signal.SIGSTOP)
    relay.cut()
    try:
        await fleet.promote(new, 1)
        await fleet.until(lambda: answered(fleet, 2), what="the second order being answered and forgotten")
        after = await leader(js)
        assert after.holder != before.holder
        assert after.term > before.term
        done = len(log_of(first))
    finally:
        if paused:
            first.process.send_signal(signal.SIGCONT)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(WATCHED_S):
            while True:
                assert {"bot.v1.bf16", "bot.v2.bf16"} <= ready(triton), "production stays loaded at every moment"
                await asyncio.sleep(0.2)
    relay.reconnect()
    await asyncio.sleep(2)  # some passes of one that led, which must do nothing
    assert {"bot.v1.bf16", "bot.v2.bf16"} <= ready(triton)
    logged = log_of(first)[done:]
    assert not [line for line in logged.splitlines() if "unloaded" in line or "loading" in line]
    assert (await leader(js)).holder == after.holder


@pytest.mark.full
@pytest.mark.parametrize("method", ["RepositoryModelLoad", "RepositoryModelUnload"])
async def test_a_request_that_was_checked_before_a_takeover_and_sent_after_it_is_refused(
    start, fleet, triton, tmp_path, method
):
    """The process is stopped between the check of its lease and the request, past its lease, and goes on."""
    js, marker = fleet.js, tmp_path / "stop"
    base, old, new = (fleet.put_toy(tmp_path, "bot", version) for version in range(3))
    first, second = start("first"), start("second")
    first.stop_before(method, marker)
    with running(first), running(second):
        await fleet.promote(old, 0, fallback=base)
        await fleet.until(lambda: answered(fleet, 1), what="the first order being answered and forgotten")
        before = await leader(js)
        marker.touch()
        await fleet.promote(new, 1)  # the new one is loaded, and then the base, which nothing needs then, unloaded
        await fleet.until(lambda: gone(marker), what="the stop before the request")
        await fleet.until(lambda: later_term(js, before), what="the takeover")
        await fleet.until(lambda: answered(fleet, 2), what="the second order being answered and forgotten")
        await fleet.until(lambda: unloaded(triton, "bot.v0.bf16"), what="the base being unloaded")
        alerts = await fleet.count(AlertRaised)
        agent = triton.agent(managers_of(first.connection))
        refused = log_of(agent).count("term_superseded")
        first.process.send_signal(signal.SIGCONT)
        await fleet.until(lambda: logged(agent, "term_superseded", more_than=refused), what="the refusal")
        await asyncio.sleep(2)  # some passes of one that led, which must do nothing
        assert {"bot.v1.bf16", "bot.v2.bf16"} <= ready(triton)
        assert "bot.v0.bf16" not in ready(triton)
        assert (await leader(js)).holder != before.holder
        assert await fleet.count(AlertRaised) == alerts
        assert log_of(first).count("term_superseded") < 5, "it stops asking"
        assert "Traceback" not in log_of(first)
        second.stop()
        await fleet.until(lambda: leads(js, before.holder), what="the first one leading again, under a later term")


async def gone(path):
    return not path.exists()


async def later_term(js, before):
    entry = await leader(js)
    return entry.term > before.term and entry.holder not in ("", before.holder)


async def leads(js, holder):
    return (await leader(js)).holder == holder


async def unloaded(triton, name):
    return name not in ready(triton)


async def logged(process, text, more_than=0):
    return log_of(process).count(text) > more_than


async def answered(fleet, epoch):
    entry = await fleet.routes.get("bot")
    return entry is not None and entry.value.epoch == epoch and not (await fleet.record()).orders


def ready(triton):
    import tritonclient.grpc as client

    with contextlib.closing(client.InferenceServerClient(triton.endpoint)) as connected:
        return {model.name for model in connected.get_model_repository_index().models if model.state == "READY"}


async def test_a_server_manager_that_is_stopped_hands_over_at_once(js, two, fleet, tmp_path):
    first, *_ = two
    before = await leader(js)
    first.stop()
    assert (await leader(js)).holder != before.holder, "the other one waits until the lease has lapsed"
    async with asyncio.timeout(20):
        while not (await leader(js)).holder:
            await asyncio.sleep(0.05)


@pytest.mark.full
async def test_while_the_agent_is_dead_loads_wait_and_what_serves_goes_on(start, fleet, triton, tmp_path):
    base, old, new = (fleet.put_toy(tmp_path, "bot", version) for version in range(3))
    with running(start("only", SERVER_MANAGER_STANDBY_GRACE_S="1")) as manager:
        await fleet.promote(old, 0, fallback=base)
        await fleet.until(lambda: answered(fleet, 1), what="the first order being answered and forgotten")
        agent = triton.agent(managers_of(manager.connection))
        alerts = await fleet.count(AlertRaised)
        agent.kill()
        await fleet.promote(new, 1)
        await fleet.until(lambda: logged(manager, "load failed"), what="a load that is not done")
        with pytest.raises(AssertionError):  # longer than an engine may be silent before it counts as down
            await fleet.until(lambda: answered(fleet, 2), timeout_s=5.0)
        assert {"bot.v1.bf16"} <= ready(triton)
        assert await fleet.count(AlertRaised) == alerts
        agent.start()
        await fleet.until(lambda: answered(fleet, 2), what="the order being answered")
        assert {"bot.v1.bf16", "bot.v2.bf16"} <= ready(triton)
        assert (await fleet.phases())["bot.v2.bf16"] == "ready"
