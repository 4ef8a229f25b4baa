"""The executor of a fleet while the agent beside an engine is away."""

from services.server_manager.domain.reconcile import Action, Limits, Phase
from services.server_manager.executor import Executor
from services.server_manager.ports import AgentSilent
from tests.kit.fakes_serving import FakeArtifacts, FakeClock, FakeEngine, FakeLead, FakeLease
from tests.unit.server_manager.factories import deployable

LIMITS = Limits(memory_budget_bytes=1000, overhead_bytes=80)


class AgentAway(FakeEngine):
    """An engine whose agent may be away: what it serves is served, and nothing is loaded or unloaded."""

    away = False

    async def unload(self, name, *, wait=True, permit=None):
        if self.away:
            raise AgentSilent("endpoint_unreachable", "The agent does not do it (UNAVAILABLE).")
        await super().unload(name, wait=wait, permit=permit)


async def settled(executor, action):
    executor.start(action)
    while executor.busy:
        (work,) = [state.work for state in executor._replicas.values() if state.work is not None]
        await work


async def test_a_target_whose_unload_the_agent_did_not_take_still_counts_and_is_unloaded_later(tmp_path):
    engine, clock = AgentAway(), FakeClock()
    lead = FakeLead(FakeLease(), clock)
    assert await lead.hold()
    executor = Executor({"default": engine}, FakeArtifacts(tmp_path), clock, LIMITS, lead, on_change=lambda: None)
    target = deployable(1)
    name = target.target.triton_name
    await settled(executor, Action("load", name, target))
    engine.away = True
    executor.note_needed({})
    await settled(executor, Action("unload", name))
    held = executor.held()[name]
    assert (held.phase, held.memory_bytes > 0, held.unneeded_s) == (Phase.READY, True, 0.0)
    engine.away = False
    await settled(executor, Action("unload", name))
    assert (executor.held(), engine.models) == ({}, {})
