"""The verdict on the previous target: kept, renewed when keys change, alerted once, and never read by a rollback."""

import asyncio

import pytest

from contracts.facts import AlertRaised, AlertResolved
from contracts.golden import GoldenPrompt
from decisions.releases.provenance import Problem
from services.rollback_controller.domain import standby
from services.rollback_controller.domain.record import RollbackState
from services.rollback_controller.standby import RememberedProbe
from shared.errors import Transient
from testbed import factories as f
from tests.kit.fakes_rollback import FakeProbe
from tests.kit.fakes_serving import FakeClock
from tests.kit.virtual_time import run_virtual
from tests.unit.rollback_controller.world import World

KEYS, OTHER_KEYS = f.digest("keys"), f.digest("other keys")
REVOKED = Problem("key_not_trusted", "merger's key was revoked.")
NOW = f.after(0)


def state():
    return RollbackState(model=f.MODEL, environment="production")


def facts(state):
    return [entry.data["message"] if isinstance(entry.data, dict) else entry.data.message for entry in state.outbox]


def test_a_verdict_is_due_once_per_target_settings_and_list_of_keys():
    route = f.route(previous=f.served(6))
    assert standby.is_due(state(), None, KEYS) is None
    assert standby.is_due(state(), f.route(previous=None), KEYS) is None
    assert standby.is_due(state(), route, KEYS) == route.previous
    known = standby.record_verdict(state(), route.previous, None, KEYS, NOW)
    assert standby.is_due(known, route, KEYS) is None
    assert standby.is_due(known, route, OTHER_KEYS) == route.previous
    assert standby.is_due(known, f.route(previous=f.served(5)), KEYS) is not None
    other = f.served(6, manifest=f.ref("other"))
    assert standby.is_due(known, f.route(previous=other), KEYS) == other


def test_an_alert_is_raised_once_and_resolved_by_proof_by_another_target_or_by_none():
    failed = standby.record_verdict(state(), f.served(6), REVOKED, KEYS, NOW)
    assert len(failed.outbox) == 1
    assert "support-bot.v6.int8, the target to roll back to, is not proven" in facts(failed)[0]
    again = standby.record_verdict(failed, f.served(6), REVOKED, OTHER_KEYS, f.after(9))
    assert again.outbox == failed.outbox
    assert again.standby.raised_at == NOW
    for after in (
        standby.record_verdict(again, f.served(6), None, KEYS, f.after(10)),
        standby.record_verdict(again, f.served(5), None, KEYS, f.after(10)),
        standby.clear(again, f.after(10)),
    ):
        assert len(after.outbox) == 2
        assert after.outbox[1].id.endswith("-resolved")
        assert after.standby is None or after.standby.raised_at is None
    replaced = standby.record_verdict(again, f.served(5), REVOKED, KEYS, f.after(10))
    assert [entry.id.rpartition("-")[2] for entry in replaced.outbox] == ["raised", "resolved", "raised"]


@pytest.mark.parametrize("problem", [REVOKED, Transient("store_unavailable", "It does not answer.")])
def test_a_rollback_goes_to_what_is_not_proven_and_waits_for_no_store(problem):
    async def scenario():
        world = World()
        world.verifies_standby = True
        world.proofs.problems[str(f.target(6))] = problem
        world.serve()
        world.open_releases(6, 7)
        world.start()
        await asyncio.sleep(20)
        assert str(f.target(6)) in world.proofs.assessed
        raised = world.log.facts(AlertRaised)
        assert [alert.kind for alert in raised] == (["provenance"] if isinstance(problem, Problem) else [])
        world.publish(world.alert(), event_id="a-1")
        await asyncio.sleep(1)
        assert world.route().active.target == f.target(6)
        await asyncio.sleep(20)
        resolved = world.log.facts(AlertResolved)
        assert len(resolved) == len(raised), "it serves now, and another one is behind it"
        await world.stop()

    run_virtual(scenario())


def test_a_verdict_is_kept_over_a_restart_and_renewed_when_the_keys_change():
    async def scenario():
        world = World()
        world.verifies_standby = True
        world.serve()
        world.open_releases(6, 7)
        world.start()
        await asyncio.sleep(20)
        await world.life.close()
        world.start()
        await asyncio.sleep(20)
        assert world.proofs.assessed == [str(f.target(6))]
        world.proofs.trust = OTHER_KEYS
        world.proofs.problems[str(f.target(6))] = REVOKED
        await asyncio.sleep(20)
        assert world.proofs.assessed == [str(f.target(6))] * 2
        (alert,) = world.log.facts(AlertRaised)
        assert alert.severity == "warning"
        await world.stop()

    run_virtual(scenario())


async def test_a_proof_of_one_replica_is_none_of_two():
    clock, inner = FakeClock(), FakeProbe()
    probe, served = RememberedProbe(inner, clock), f.served(6, endpoints=("a:1", "b:1"))
    assert [await probe.answers(served, least) for least in (1, 1, 2, 2, 1)] == [None] * 5
    assert len(inner.asked) == 2, "once for one, once for both"
    clock.seconds = 9.0
    await probe.ask(served, GoldenPrompt(name="two", prompt="1 + 1", expect={"contains": ["2"]}))
    inner.gone.add("b:1")
    assert await probe.answers(served, 2) is None
    clock.seconds = 11.0
    assert await probe.answers(served, 2) is not None
    assert await probe.answers(served) is None
