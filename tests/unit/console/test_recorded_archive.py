"""A replay reads of the archive what it needs, within its limits, and stops reading when it is refused."""

import asyncio
import threading
from datetime import timedelta
from types import SimpleNamespace

import pytest

from contracts import facts as cf
from contracts.envelope import plain
from contracts.vocabulary import canonical_json
from services.console.adapters.archived_log import WholeLog
from services.console.adapters.recorded import RecordedEvents
from shared.errors import Permanent, Transient
from testbed import factories as f
from testbed.attesters import trust
from tests.kit.archive_world import ArchiveWorld

NOW = f.after(0)
MODEL = f.MODEL
SINCE = NOW - timedelta(hours=48)


class EmptyBus:
    """A bus whose log has no events any more."""

    async def pull_subscribe(self, _subject, **_options):
        return self

    async def consumer_info(self):
        return SimpleNamespace(num_pending=0)

    async def unsubscribe(self):
        return None


class Trimmed:
    """The numbers of a log of which everything was removed."""

    def __init__(self, log):
        self.log = log

    async def first(self, _stream):
        return (await self.log.state()).first


class Archive:
    """An archive that a replay reads; each event that is published is in a segment of its own, unless `sealed` later."""

    def __init__(self, folder):
        self.world = ArchiveWorld(folder)
        self.number = 0

    async def publish(self, fact, hours_ago, *, seal=True):
        self.number += 1
        at = NOW - timedelta(hours=hours_ago)
        event = f.event(fact, id=f"event-{self.number}", time=at)
        self.world.log.bus_at = at
        self.world.log.publish(event.nats_subject, canonical_json(plain(event)), event.id)
        if seal:
            await self.world.archive()

    async def history(self, days):
        """Publish a release and an alert for each day, and a route a day later."""
        for version, day in enumerate(range(days, 0, -1), 1):
            await self.publish(opened(version), 24 * day, seal=False)
            await self.publish(cf.AlertRaised, 24 * day)
            await self.publish(route(version, NOW - timedelta(days=day)), 24 * day - 12)

    def replay(self, **options):
        whole = WholeLog(Trimmed(self.world.log), lambda: self.world.record, self.world.store, trust(self.world.keys))
        self.world.store.reads.clear()
        return RecordedEvents(EmptyBus, archived=whole.of_model, **options).read(MODEL, SINCE)

    def opened(self):
        return [key for key in self.world.store.reads if key.endswith(".json")]


def opened(version):
    return f.fact(cf.ReleaseOpened, version=version)


def route(version, at):
    changed = f.fact(cf.DeploymentChanged, at=at)
    return changed.model_copy(update={"route": changed.route.model_copy(update={"epoch": version})})


def window(version):
    summarised = f.fact(cf.WindowSummarised)
    return summarised.model_copy(update={"target": summarised.target.model_copy(update={"version": version})})


@pytest.fixture
def archive(tmp_path):
    return Archive(tmp_path)


def versions(events, kind):
    return [event.data.version for event in events if isinstance(event.data, kind)]


async def test_segments_from_before_what_a_replay_needs_are_not_opened(archive):
    """Releases of 100 days are in the archive; the windows of two days are of the newest two versions."""
    await archive.history(days=100)
    for hour in (40, 20):
        await archive.publish(window(99), hour)
    await archive.publish(window(100), 1)
    events = await archive.replay()
    assert [e.data.target.version for e in events if isinstance(e.data, cf.WindowSummarised)] == [99, 99, 100]
    assert {99, 100} <= set(versions(events, cf.ReleaseOpened))
    assert [event for event in events if isinstance(event.data, cf.DeploymentChanged) and event.time < SINCE]
    assert len(archive.opened()) < 30
    assert len(set(archive.opened())) > len(archive.opened()) - 6, "an index is opened once for all groups"


async def test_the_policy_of_a_version_that_serves_since_long_ago_is_read_behind_those_of_later_releases(archive):
    await archive.history(days=20)
    await archive.publish(window(3), 1)
    events = await archive.replay()
    assert 3 in versions(events, cf.ReleaseOpened)
    assert len([e for e in events if isinstance(e.data, cf.AlertRaised)]) < 12, "of alerts only the newest"


async def test_the_windows_of_a_version_without_a_policy_are_read_nevertheless(archive):
    await archive.publish(window(3), 1)
    assert [event.type for event in await archive.replay()] == [cf.WindowSummarised.TYPE]


async def test_a_model_without_windows_is_not_read_to_its_beginning(archive):
    await archive.history(days=30)
    assert [event for event in await archive.replay() if isinstance(event.data, cf.DeploymentChanged)]
    assert len(archive.opened()) < 20


async def test_a_replay_of_too_many_events_ends_before_they_are_all_read(archive, monkeypatch):
    monkeypatch.setattr("services.console.adapters.recorded.MOST", 10)
    for number in range(60):
        await archive.publish(window(1), 40 - number / 2)
    with pytest.raises(Permanent, match=rf"{MODEL} has more than 10 events in the archive") as refused:
        await archive.replay()
    assert refused.value.code == "too_large"
    assert len(archive.opened()) < 14


async def test_an_archive_that_takes_too_long_is_named_and_is_read_no_further(archive):
    for number in range(30):
        await archive.publish(window(1), 40 - number)
    find, answers = archive.world.store.find, threading.Event()

    class Slow:
        """A store whose third answer comes after the reader has given up."""

        def __init__(self):
            self.asked = 0

        def __getattr__(self, name):
            return getattr(store, name)

        def find(self, key):
            self.asked += 1
            if self.asked == 3:
                answers.wait(60)
            return find(key)

    store = archive.world.store
    archive.world.store = slow = Slow()
    with pytest.raises(Transient, match=r"archive .* in the object store cannot be read within 0\.2 s") as refused:
        await archive.replay(within_s=0.2)
    assert refused.value.code == "store_unavailable"
    answers.set()
    await asyncio.get_running_loop().shutdown_default_executor()  # waits for the reader
    assert slow.asked <= 3  # fewer where the time is over before the third is asked for
