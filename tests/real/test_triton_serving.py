"""server-manager on a real Triton with the toy engine, a real bus and a real store: staging, traffic, healing."""

import asyncio
from datetime import UTC, datetime

import pytest

from contracts.facts import (
    AlertRaised,
    AlertResolved,
    DeploymentChanged,
    PromotionRefused,
    VariantFailed,
    VariantStaged,
)
from contracts.vocabulary import Target
from shared.messaging.provision import provision
from shared.serving.channels import Channels
from shared.serving.inference import generate
from testbed.attesters import attester_keys
from testbed.servers import running
from tests.kit.serving import ServerManager

pytestmark = [pytest.mark.real]
TOY = '{"crash_text": "CRASH", "dead_text": "DEAD", "token_delay_ms": "1"}'
MIB = 1024 * 1024


def server_manager(tmp_path, settings, triton, **more):
    more = {"engine": "toy", "toy": TOY, "memory_budget_bytes": 1000 * MIB, "overhead_bytes": 64 * MIB, **more}
    return ServerManager(tmp_path, settings, triton, **more)


@pytest.fixture
def manager(tmp_path, settings, triton, js):
    with running(server_manager(tmp_path, settings, triton)) as process:
        yield process


async def ask(endpoint, name, prompt="hello", tokens=4):
    channels = Channels()
    try:
        stream = generate(channels.get(endpoint), name, prompt, {"max_tokens": tokens})
        return [delta.text async for delta in stream]
    finally:
        await channels.close()


async def are_ready(fleet, *names):
    phases = await fleet.phases()
    return all(phases.get(name) == "ready" for name in names)


async def test_staged_promoted_and_previous_kept_ready(fleet, manager, triton, tmp_path):
    base, first, second = (fleet.put_toy(tmp_path, "bot", version) for version in range(3))
    request = await fleet.stage(first, base)
    (staged,) = await fleet.facts(VariantStaged)
    assert staged.causationid == request
    assert staged.data.candidate.target == first.target
    assert staged.data.baseline.endpoints == (triton.endpoint,)
    assert "messages" in staged.data.candidate.chat_template
    assert (staged.data.candidate.bos_token, staged.data.candidate.eos_token) == ("<s>", "</s>")
    assert staged.data.candidate.context_tokens == 2048

    await fleet.release(first)
    await fleet.promote(first, 0, fallback=base)
    (changed,) = await fleet.facts(DeploymentChanged)
    assert changed.data.cause == "promote"
    route = (await fleet.routes.get("bot")).value
    assert route == changed.data.route
    assert (route.active.target, route.previous.target, route.epoch) == (first.target, base.target, 1)

    order = await fleet.promote(second, 1)
    await fleet.facts(DeploymentChanged, 2)
    route = (await fleet.routes.get("bot")).value
    assert (route.active.target, route.previous.target, route.epoch) == (second.target, first.target, 2)
    assert await are_ready(fleet, "bot.v2.bf16", "bot.v1.bf16")
    assert len(await ask(triton.endpoint, "bot.v1.bf16")) == 4

    async def base_is_gone():
        return "bot.v0.bf16" not in await fleet.phases()

    await fleet.until(base_is_gone, what="the base being unloaded once no route and no lease needs it")
    # The same order again, under the same id, changes nothing and says nothing new.
    await fleet.promote(second, 1, event_id=order)
    await fleet.until(lambda: _no_orders(fleet), what="the repeated order being answered")
    assert (await fleet.routes.get("bot")).value == route
    assert await fleet.count(DeploymentChanged) == 2
    assert await fleet.count(PromotionRefused) == 0


async def _no_orders(fleet):
    return not (await fleet.record()).orders


async def test_killed_stub_is_healed_and_alerted(fleet, manager, triton, tmp_path):
    first, base = fleet.put_toy(tmp_path, "bot", 1), fleet.put_toy(tmp_path, "bot", 0)
    await fleet.promote(first, 0, fallback=base)
    await fleet.facts(DeploymentChanged)
    before = await ask(triton.endpoint, "bot.v1.bf16")
    triton.kill_stub("bot.v1.bf16")
    (raised,) = await fleet.facts(AlertRaised)
    assert (raised.data.kind, raised.data.target) == ("engine", first.target)
    (resolved,) = await fleet.facts(AlertResolved)
    assert resolved.data.alert_id == raised.data.alert_id
    assert await ask(triton.endpoint, "bot.v1.bf16") == before


@pytest.mark.full
async def test_with_nothing_behind_it_a_version_says_so_until_there_is(fleet, settings, triton, tmp_path):
    first, second = fleet.put_toy(tmp_path, "bot", 1), fleet.put_toy(tmp_path, "bot", 2)
    manager = server_manager(tmp_path, settings, triton, standby_grace_s=0.5)
    with running(manager):
        await fleet.promote(first, 0)
        (raised,) = await fleet.facts(AlertRaised)
        assert (raised.data.kind, raised.data.target) == ("standby", first.target)
        manager.kill()
        manager.start()
        await fleet.promote(second, 1)
        (resolved,) = await fleet.facts(AlertResolved)
        assert resolved.data.alert_id == raised.data.alert_id == "standby-bot"
        assert await fleet.count(AlertRaised) == 1


async def test_killed_triton_is_waited_for_and_everything_is_loaded_again(fleet, manager, triton, tmp_path):
    base, first, second = (fleet.put_toy(tmp_path, "bot", version) for version in range(3))
    await fleet.promote(first, 0, fallback=base)
    await fleet.facts(DeploymentChanged)
    await fleet.promote(second, 1)
    await fleet.facts(DeploymentChanged, 2)
    triton.kill()
    triton.nothing_left()
    raised = await fleet.facts(AlertRaised, 2)
    assert {event.data.kind for event in raised} == {"engine", "standby"}, "what serves is silent, nothing is behind it"
    triton.start()
    await fleet.facts(AlertResolved, 2)
    assert await are_ready(fleet, "bot.v1.bf16", "bot.v2.bf16")
    for name in ("bot.v1.bf16", "bot.v2.bf16"):
        assert len(await ask(triton.endpoint, name)) == 4


async def test_killed_server_manager_finishes_the_order_exactly_once(fleet, settings, triton, tmp_path):
    # What was published before it died is published again once its lease lapsed, 6 s later: within the real window.
    await provision(fleet.js, dedupe_window_s=60.0)
    first, base = fleet.put_toy(tmp_path, "bot", 1), fleet.put_toy(tmp_path, "bot", 0)
    await fleet.promote(first, 0, fallback=base)
    manager = server_manager(tmp_path, settings, triton)
    assert await asyncio.to_thread(manager.die_at, "server-manager.after_cas") == "servers/main"
    with running(manager):
        (changed,) = await fleet.facts(DeploymentChanged)
        await fleet.until(lambda: _no_orders(fleet), what="the order being forgotten")
        route = (await fleet.routes.get("bot")).value
        assert route == changed.data.route
        assert (route.epoch, route.active.target) == (1, first.target)
        assert await fleet.count(DeploymentChanged) == 1
        assert await fleet.count(PromotionRefused) == 0


async def test_restarted_server_manager_keeps_what_is_loaded(fleet, manager, triton, tmp_path):
    first = fleet.put_toy(tmp_path, "bot", 1)
    await fleet.promote(first, 0)
    await fleet.facts(DeploymentChanged)
    stub = triton.stub("bot.v1.bf16").pid
    manager.kill()
    manager.start()
    await fleet.until(lambda: are_ready(fleet, "bot.v1.bf16"))
    assert triton.stub("bot.v1.bf16").pid == stub
    assert Target(model="bot", version=1, variant="bf16") == (await fleet.record()).loaded[0].target


async def test_what_nobody_signed_is_not_loaded_and_is_alerted(fleet, manager, tmp_path):
    base, unsigned = fleet.put_toy(tmp_path, "unsigned", 0), fleet.put_toy(tmp_path, "unsigned", 1, signed=False)
    await fleet.stage(unsigned, base)
    (failed,) = await fleet.facts(VariantFailed)
    assert failed.data.code == "attestation_missing"
    (raised,) = await fleet.facts(AlertRaised)
    assert (raised.data.kind, raised.data.target) == ("provenance", unsigned.target)
    assert "versions/unsigned/1/manifest.json does not exist" in raised.data.message
    folders = {path.name for path in (manager.folder / "artifacts").glob("*")}  # the base's may be on its way
    assert not any(unsigned.manifest.digest.removeprefix("sha256:") in name for name in folders), "no byte was fetched"


async def test_a_revoked_key_blocks_new_loads_and_takes_nothing_away(fleet, manager, triton, tmp_path):
    base, first, second = (fleet.put_toy(tmp_path, "revoked", version) for version in range(3))
    await fleet.promote(first, 0, fallback=base)
    await fleet.facts(DeploymentChanged)
    before = await ask(triton.endpoint, "revoked.v1.bf16")
    attester_keys(fleet.keys).revoke("quantiser", datetime.now(UTC))
    await fleet.stage(second, first)
    (failed,) = await fleet.facts(VariantFailed)
    assert failed.data.code == "key_not_trusted"
    alerts = [event.data for event in await fleet.facts(AlertRaised)]
    assert [(alert.kind, alert.target) for alert in alerts] == [("provenance", second.target)]
    assert await ask(triton.endpoint, "revoked.v1.bf16") == before, "what serves was not touched"
    triton.kill_stub("revoked.v1.bf16")

    async def healed():
        return [event for event in await fleet.facts(AlertResolved) if event.data.kind == "engine"]

    await fleet.until(healed, what="its engine being loaded again")
    assert await ask(triton.endpoint, "revoked.v1.bf16") == before
