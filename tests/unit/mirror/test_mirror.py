"""The loop: what changed is mirrored, what failed is tried again, and nothing is lost."""

import itertools

import pytest
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from contracts.mirrors import Mirror as Declared
from services.mirror.app import Mirror
from services.mirror.domain.plan import Mirrored
from services.mirror.metrics import MirrorMetrics
from services.mirror.settings import MirrorSettings
from shared.errors import Permanent
from testbed import factories
from tests.kit.fakes_mirror import FakeChanges, FakeRegistry, FakeVersions
from tests.kit.histories import history

SETTINGS = MirrorSettings(mlflow_url="http://127.0.0.1:1", resync_s=300.0, retry_first_s=2.0, retry_longest_s=64.0)


class Clock:
    now_s = 100.0

    def monotonic(self):
        return self.now_s


class World:
    def __init__(self):
        self.registry, self.versions, self.changes, self.clock = FakeRegistry(), FakeVersions(), FakeChanges(), Clock()
        self.metrics = CollectorRegistry()
        self.start()

    def start(self):
        """Start the mirror, as after a kill: it remembers nothing."""
        self.metrics = CollectorRegistry()
        self.mirror = Mirror(
            registries=[self.registry],
            versions=self.versions,
            changes=self.changes,
            metrics=MirrorMetrics(self.metrics),
            settings=SETTINGS,
            clock=self.clock,
            jitter=lambda: 0.0,
        )

    def register(self, version, model="support-bot", state=None):
        self.versions.add(history(model, version), state or f"state-{version}")
        self.changes.new.add(model)

    async def sweep(self, after_s=0.0):
        """Do what is due, as the sweeper does, and return the failures."""
        self.clock.now_s += after_s
        failures = []
        for item in await self.mirror.due():
            try:
                await self.mirror.mirror(item)
            except Exception as error:  # noqa: BLE001 - as the sweeper does
                failures.append(error)
        return failures

    def shown(self, model="support-bot"):
        return sorted(each.version for each in self.registry.versions[model].values())


@pytest.fixture
def world():
    return World()


async def test_what_is_registered_is_mirrored_in_order(world):
    for version in (2, 10, 1):
        world.register(version)
    assert await world.sweep() == []
    assert [each.version for each in world.registry.versions["support-bot"].values()] == [1, 2, 10]


async def test_what_is_mirrored_is_not_written_again(world):
    world.register(1)
    await world.sweep()
    before = dict(world.registry.versions["support-bot"])
    world.start()
    await world.sweep()
    assert world.registry.versions["support-bot"] == before


async def test_records_that_come_after_the_fact_are_mirrored_too(world):
    world.register(1)
    await world.sweep()
    world.versions.fingerprints["support-bot", 1] = "state-1b"
    await world.sweep(after_s=1.0)
    assert [each.fingerprint for each in await world.registry.mirrored("support-bot")] == ["state-1"]
    await world.sweep(after_s=5.0)
    assert [each.fingerprint for each in await world.registry.mirrored("support-bot")] == ["state-1b"]


async def test_what_was_deleted_there_is_found_without_any_event(world):
    world.register(1)
    await world.sweep()
    world.registry.versions["support-bot"].clear()
    await world.sweep(after_s=100.0)
    assert await world.sweep(after_s=301.0) == []
    assert world.shown() == [1]


async def test_aliases_follow_the_route(world):
    for version in (1, 2, 3):
        world.register(version)
    served = [factories.served(version, model="support-bot") for version in (1, 2, 3)]
    canary = {"served": served[2], "weight_ratio": 0.2}
    world.changes.routes["support-bot"] = factories.route(active=served[1], previous=served[0], canary=canary)
    await world.sweep()
    assert world.registry.aliases["support-bot"] == {"champion": 2, "previous": 1, "candidate": 3}


async def test_an_outage_loses_nothing_and_is_asked_less_and_less_often(world):
    for model in ("a", "b", "c"):
        world.register(1, model)
    world.registry.down = True
    world.registry.calls = 0
    calls = []
    for _ in range(600):
        await world.sweep(after_s=1.0)
        calls.append(world.registry.calls)
    assert calls[-1] <= 16, "3, 2, 4, … 64 s apart"
    world.registry.down = False
    for _ in range(70):
        await world.sweep(after_s=1.0)
    assert [world.shown(model) for model in ("a", "b", "c")] == [[1], [1], [1]]
    assert world.metrics.get_sample_value("slipway_mirror_models_behind", {"registry": "fake"}) == 0
    assert world.metrics.get_sample_value("slipway_mirror_versions_written_total", {"registry": "fake"}) == 3


async def test_one_model_that_is_refused_delays_no_other(world):
    world.register(1, "bad")
    world.register(1, "good")
    world.versions.histories["bad", 1] = Permanent("digest_mismatch", "bad@v1 is not what was registered.")
    failures = await world.sweep()
    assert [error.code for error in failures] == ["digest_mismatch"]
    assert world.shown("good") == [1]


async def test_a_version_that_is_not_what_was_registered_hides_no_other_version(world):
    for version in (1, 2):
        world.register(version)
    world.versions.histories["support-bot", 1] = Permanent("digest_mismatch", "altered")
    world.changes.routes["support-bot"] = factories.route(active=factories.served(2), previous=None, canary=None)
    failures = await world.sweep()
    assert [error.code for error in failures] == ["digest_mismatch"]
    assert world.shown() == [2]
    assert world.registry.aliases["support-bot"] == {"champion": 2}


@pytest.mark.parametrize("at", range(6))
async def test_a_kill_between_any_two_calls_is_made_good_by_the_next_start(world, at):
    for version in (1, 2):
        world.register(version)
    served = factories.served(2)
    world.changes.routes["support-bot"] = factories.route(active=served, previous=None, canary=None)
    calls = itertools.count()

    class Killed(BaseException):
        pass

    def reach():
        if next(calls) == at:
            raise Killed

    world.registry.on_call = reach
    try:
        await world.sweep()
    except Killed:
        world.start()
    await world.sweep()
    assert world.shown() == [1, 2]
    assert world.registry.aliases["support-bot"] == {"champion": 2}


@pytest.mark.parametrize("source", ["s3://elsewhere/weights", ""])
async def test_an_entry_with_our_tags_and_other_files_is_no_copy(source):
    """Everyone who may write to the registry can copy the tags of a version to an entry, and delete the version's."""
    world = World()
    world.register(7)
    world.changes.routes["support-bot"] = factories.route(active=factories.served(7))
    world.registry.versions["support-bot"]["1"] = Mirrored(7, "state-7", "1", source)
    world.registry._last = 1
    for _ in range(3):
        assert await world.sweep(after_s=1000.0) == []
    assert sorted(world.registry.versions["support-bot"]) == ["1", "2"], "it is written once"
    assert world.registry.named["support-bot"] == {"champion": "2"}


async def test_a_declared_mirror_chooses_models_and_is_followed_while_it_runs(world):
    for model in ("a-bot", "b-bot"):
        world.register(1, model)
    world.changes.mirrors = {
        "fake": Declared.model_construct(registry="fake", models=("a-bot",), without=(), paused=False)
    }
    assert await world.sweep() == []
    assert set(world.registry.versions) == {"a-bot"}
    await world.sweep()
    assert world.metrics.get_sample_value("slipway_mirror_models_behind", {"registry": "fake"}) == 0, (
        "what is not mirrored does not wait"
    )
    world.changes.mirrors = {
        "fake": Declared.model_construct(registry="fake", models=(), without=("a-bot",), paused=False)
    }
    world.register(2, "a-bot")
    await world.sweep(5.0)
    assert {model for model, there in world.registry.versions.items() if there} == {"a-bot", "b-bot"}
    assert len(world.registry.versions["a-bot"]) == 1, "copies stay, and get no new ones"
    world.changes.mirrors = {"fake": Declared.model_construct(registry="fake", models=(), without=(), paused=True)}
    world.register(2, "b-bot")
    await world.sweep(5.0)
    assert len(world.registry.versions["b-bot"]) == 1
    world.changes.mirrors = {}
    await world.sweep(5.0)
    assert [len(world.registry.versions[model]) for model in ("a-bot", "b-bot")] == [2, 2]


async def test_a_model_that_failed_and_is_no_longer_mirrored_is_not_tried_again(world):
    world.register(1)
    world.registry.down = True
    assert await world.sweep()
    world.changes.mirrors = {
        "fake": Declared.model_construct(registry="fake", models=(), without=("support-bot",), paused=False)
    }
    calls = world.registry.calls
    assert await world.sweep(500.0) == []
    assert world.registry.calls == calls
    assert world.metrics.get_sample_value("slipway_mirror_models_behind", {"registry": "fake"}) == 0


def test_a_mirror_lists_models_or_those_without():
    with pytest.raises(ValidationError, match="exclude each other"):
        Declared(registry="mlflow", models=("a-bot",), without=("b-bot",))
