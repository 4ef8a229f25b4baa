"""The executor of a fleet: what it does with one replica, whatever was planned."""

import asyncio

import pytest

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


class Fleet:
    """An executor of two engines, on which a target is loaded: at home on the second, a copy on the first."""

    def __init__(self, folder):
        self.engines, self.clock = {"default": FakeEngine(), "two": FakeEngine()}, FakeClock()
        self.target = deployable(1)
        self.name = str(self.target.target)
        self.lead = FakeLead(FakeLease(), self.clock)
        self.executor = Executor(
            self.engines, FakeArtifacts(folder), self.clock, LIMITS, self.lead, on_change=lambda: None
        )

    async def do(self, kind, endpoint, *, is_copy=True):
        loaded = self.target if kind == "load" else None
        self.executor.start(Action(kind, self.name, loaded, endpoint, is_copy))
        await asyncio.gather(*[state.work for state in self.executor._replicas.values() if state.work is not None])

    def list(self, endpoint):
        self.clock.seconds += 1.0
        self.executor.note_index(endpoint, self.engines[endpoint].models, self.clock.monotonic())
        self.clock.seconds += 1.0

    @property
    def copy(self):
        return self.executor.others().get(("default", self.name))


@pytest.fixture
async def fleet(tmp_path):
    made = Fleet(tmp_path)
    assert await made.lead.hold()
    await made.do("load", "two", is_copy=False)
    await made.do("load", "default")
    return made


async def test_a_dead_copy_is_unloaded_before_its_target_is_loaded_there(fleet):
    fleet.engines["default"].dead.add(fleet.name)
    await fleet.do("probe", "default")
    assert fleet.copy.phase is Phase.DEAD
    await fleet.do("load", "default", is_copy=False)
    home = fleet.executor.held()[fleet.name]
    assert (home.endpoint, home.phase) == ("default", Phase.READY)


async def test_a_copy_that_was_listed_is_no_failed_load_after_a_restart_of_its_engine(fleet):
    fleet.engines["default"].restart()
    fleet.list("default")
    assert (fleet.copy.phase, fleet.copy.failures) == (Phase.FAILED, 1), "it was never listed"
    fleet.executor.drop_failed(())
    await fleet.do("load", "default")
    fleet.list("default")
    fleet.engines["default"].restart()
    fleet.list("default")
    assert fleet.copy is None
    assert fleet.executor.held()[fleet.name].endpoint == "two"
