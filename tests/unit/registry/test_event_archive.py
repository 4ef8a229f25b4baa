"""The archiver on logs that are not what the record says: nothing that is in no segment is removed from a log."""

from datetime import timedelta

import pytest

from contracts.event_archive import KEY, EventArchive
from shared.errors import Permanent, Transient
from tests.kit.archive_world import FOREVER, ArchiveWorld
from tests.kit.conformance_event_log import EventLogConformance
from tests.kit.fakes_event_log import FakeEventLog

MODELS = ("shop-bot", "help-bot")
SEGMENT = 3


class TestFakeEventLog(EventLogConformance):
    @pytest.fixture
    def log(self):
        return FakeEventLog()

    async def publish(self, log, subject, body, message_id):
        log.publish(subject, body, message_id)

    async def remove(self, log, number):
        log.remove(number)


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setattr("services.registry.event_archive.SEGMENT_EVENTS", SEGMENT)
    return ArchiveWorld(tmp_path)


async def test_what_is_archived_is_removed_and_nothing_else(world):
    world.publish(10)
    archive = await world.archive()
    assert (archive.trimmed, archive.archived, sorted(world.log.messages)) == (4, 10, [])


@pytest.mark.parametrize("events", [1, 4, 9, 10, 40])
@pytest.mark.parametrize("trimmed", [False, True])
async def test_a_log_that_was_made_again_loses_no_event(world, events, trimmed):
    """Its numbers begin with 1 again, below those of the record, which counts segments of the log before."""
    world.publish(10)
    await world.archive(timedelta(0) if trimmed else FOREVER)
    world.log = FakeEventLog()
    world.publish(events)
    refusals = []
    for _ in range(3):
        try:
            await world.archive()
        except Permanent as error:
            refusals.append((error.code, "nothing is archived or trimmed" in error.reason))
    assert sorted(world.log.messages) == list(range(1, events + 1))
    same_last = trimmed and events == 10  # the record fits until a further event is archived
    assert refusals == ([] if same_last else [("digest_mismatch", True)] * 3)


async def test_a_log_whose_events_were_all_removed_goes_on(world):
    world.publish(7)
    await world.archive(FOREVER)
    await world.log.trim(7)
    assert (await world.archive()).trimmed == 3
    world.publish(2)
    archive = await world.archive()
    assert (archive.archived, archive.trimmed) == (9, 4)


async def test_an_archived_event_that_was_removed_by_hand_does_not_stop_trimming(world):
    world.publish(6)
    await world.archive(FOREVER)
    world.log.remove(2)
    assert (await world.archive()).trimmed == 2
    assert world.log.messages == {}


@pytest.mark.parametrize("smaller", [1, 2])
async def test_a_marked_segment_is_whole_after_a_restart_with_smaller_segments(world, monkeypatch, smaller):
    world.publish(6)
    await world.record.create(KEY, EventArchive(id="0123456789abcdef", sealing=5))
    monkeypatch.setattr("services.registry.event_archive.SEGMENT_EVENTS", smaller)
    monkeypatch.setattr("services.registry.event_archive.SEGMENT_BYTES", 1)
    archive = await world.archive(FOREVER)
    assert [m.sequence for n in range(1, archive.segment) for m in world.archived(archive, n)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("number", [1, 3, 5])
async def test_a_log_that_answers_nothing_before_the_mark_is_read_again(world, number):
    world.publish(5)
    marked = EventArchive(id="0123456789abcdef", sealing=5)
    await world.record.create(KEY, marked)
    world.log.hidden = {number}
    with pytest.raises(Transient, match="not up to the mark 5"):
        await world.archive(FOREVER)
    assert (await world.state(), world.store.versions_of) == (marked, {})
    world.log.hidden = set()
    archive = await world.archive(FOREVER)
    assert [m.sequence for m in world.archived(archive, 1)] == [1, 2, 3, 4, 5]


async def test_a_mark_is_dropped_once_its_events_are_all_removed(world):
    world.publish(5)
    await world.record.create(KEY, EventArchive(id="0123456789abcdef", sealing=3))
    await world.log.trim(3)
    archive = await world.archive(FOREVER)
    assert (archive.archived, [m.sequence for m in world.archived(archive, 1)]) == (5, [4, 5])


async def test_events_are_archived_by_the_clock_of_the_bus_if_the_registrys_is_behind(world):
    world.publish(1)
    world.clock.shift = -timedelta(days=365)
    world.log.bus_at += timedelta(hours=1)
    world.every = timedelta(hours=1)
    assert (await world.archive(FOREVER)).archived == 1


@pytest.mark.parametrize(("number", "left"), [(1, 6), (2, 6), (6, 3)])
async def test_a_log_that_answers_nothing_before_the_end_of_a_segment_is_not_trimmed(world, number, left):
    world.publish(6)
    await world.archive(FOREVER)
    world.log.hidden = {number}
    with pytest.raises(Transient, match="The event log was read up to"):
        await world.archive()
    assert sorted(world.log.messages) == list(range(1, 7))[-left:]
    world.log.hidden = set()
    assert (await world.archive()).trimmed == 2


class Busy(FakeEventLog):
    """A log in which an event is published just after the log ended, for the second time that it is read."""

    def __init__(self, world):
        super().__init__()
        self.messages, self.last, self.ends, self.world = world.log.messages, world.log.last, 0, world

    async def read(self, after):
        message = await super().read(after)
        self.ends += message is None
        if message is None and self.ends == 2:
            self.world.publish(1)
        return message


async def test_an_event_that_is_published_while_a_segment_is_compared_does_not_stop_trimming(world):
    world.publish(3)
    await world.archive(FOREVER)
    world.log = Busy(world)
    archive = await world.archive()
    assert (archive.archived, archive.trimmed, world.log.messages) == (4, 2, {})


async def test_a_log_that_another_registry_trims_while_a_segment_is_compared_is_no_error(world):
    class Trimmed(FakeEventLog):
        """A log that is removed whole after its first message was read again."""

        trims = False

        async def read(self, after):
            message = await super().read(after)
            if self.trims and after == 0:
                await self.trim(6)
            return message

    world.log = Trimmed()
    world.publish(6)
    await world.archive(FOREVER)
    world.log.trims = True
    assert (await world.archive()).trimmed == 2
