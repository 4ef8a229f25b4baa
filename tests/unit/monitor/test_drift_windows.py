"""Full drift windows of one model: one that cannot be compared does not stop the others. Keys that are none are skipped."""

import structlog

from contracts.vocabulary import Target
from services.monitor.domain.record import MonitorState
from testbed import factories
from tests.kit.fakes_monitor import FakeReferences
from tests.kit.fakes_registry import FixedClock
from tests.unit.monitor import factories as m
from tests.unit.monitor.drift_rows import ROWS, full
from tests.unit.monitor.world import KEY, World


def compared(state: MonitorState, target: Target) -> int:
    return state.targets[str(target)].drift.compared


async def test_a_reference_that_cannot_be_read_delays_only_its_own_target():
    references = FakeReferences()
    world = World(clock=FixedClock(factories.after(20.0)), references=references, drift_rows=ROWS)
    state = full(6, 7, world.rules)
    targets = [watched.target for watched in state.targets.values() if watched.drift.columns]
    assert [target.version for target in targets] == [6, 7]
    for target in targets:
        columns = state.targets[str(target)].drift.columns
        reference = await references.put(target, columns, taken_at=factories.after(0.0), source="a test")
        if target.version == 6:
            references.damaged.add(reference.ref.uri)
    await world.records.create(KEY, state)
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):  # the first sweep finds the references, the second one compares
            await world.monitor.sweep(("production", factories.MODEL))
    after = (await world.records.get(KEY)).value
    assert [compared(after, target) for target in targets] == [0, 1]
    assert [(log["item"], log["code"]) for log in logs] == [(str(targets[0]), "digest_mismatch")]


async def test_a_key_that_names_no_environment_or_no_model_is_skipped_and_logged_once():
    world = World(clock=FixedClock(factories.after(20.0)))
    state = m.routed()
    for key in ("production.a", "staging.b", "stagign.c", "production", "production.", ".d", "a"):
        await world.records.create(key, state)
    with structlog.testing.capture_logs() as logs:
        assert sorted(await world.monitor.watched()) == [("production", "a"), ("staging", "b")]
        assert len(await world.monitor.watched()) == 2
    assert sorted(log["key"] for log in logs) == [".d", "a", "production", "production.", "stagign.c"]
