"""The archive of the event log on a real bus and store: whole after every kill, and nothing is trimmed that is needed."""

import asyncio
import contextlib
from datetime import timedelta

import pytest
from nats.js.errors import NotFoundError

from clients.cli.backup.archive import archive_at
from clients.cli.backup.contents import StreamCopy
from clients.cli.output import CommandError
from contracts import facts as cf
from contracts.event_archive import KEY, EventArchive
from contracts.services import EVENTS, durable_name
from decisions.event_archive import Keeping, body_of, index_key, message_of, segment_key
from services.registry.adapters.event_archive import StreamEventLog
from services.registry.event_archive import Retain
from shared.errors import Permanent
from shared.provenance.event_archive import put_segment, read_part
from shared.storage.blobs import Store
from testbed import factories as f
from testbed.attesters import attester
from tests.kit.archived_log import ArchivedLog
from tests.kit.conformance_event_log import EventLogConformance

MODELS = ("shop-bot", "help-bot")
POINTS = ("mark", "segment", "count")
DAY = timedelta(days=1)


class Killed(Exception):  # noqa: N818 - it stands for the end of a process
    """The process ended here."""


@pytest.fixture
def log(js, settings, tmp_path, monkeypatch):
    monkeypatch.setattr("services.registry.event_archive.SEGMENT_EVENTS", 3)
    return ArchivedLog(js, Store(settings), tmp_path)


class TestStreamEventLog(EventLogConformance):
    @pytest.fixture
    def log(self, js):
        self.js = js
        return StreamEventLog(lambda: js)

    async def publish(self, _log, subject, body, message_id):
        await self.js.publish(subject, body, headers={"Nats-Msg-Id": message_id})

    async def remove(self, _log, number):
        await self.js.delete_msg(EVENTS, number)

    async def test_a_log_that_is_gone_has_no_end(self, log):
        await self.js.delete_stream(EVENTS)
        with pytest.raises(NotFoundError):
            await log.read(0)


async def test_each_message_is_in_one_segment_as_it_was_and_a_model_is_read_by_itself(log):
    await log.publish(6)
    await log.publish(2, cf.AlertRaised)
    await log.js.publish(f"{cf.VariantStaged.TYPE}.shop-bot.server-manager", b"\xff{")
    messages = [await log.js.get_msg(EVENTS, number) for number in range(1, 10)]
    archive = await log.archive()
    assert (archive.segment, archive.archived, archive.sealing) == (4, 9, 0)
    assert [(m.sequence, m.subject, body_of(m)) for m in log.archived(archive)] == [
        (message.seq, message.subject, message.data) for message in messages
    ]
    last = log.index(archive, 3)
    assert [(part.model, part.group, part.events, part.before) for part in last.parts] == [
        ("help-bot", "alerts", 1, 0),
        ("shop-bot", "alerts", 1, 0),
        ("shop-bot", "releases", 1, 0),
    ]
    second = log.index(archive, 2)
    assert [(part.model, part.before) for part in second.parts] == [("help-bot", 1), ("shop-bot", 1)]
    (part,) = [part for part in second.parts if part.model == "shop-bot"]
    assert [m.sequence for m in read_part(log.store, second, part)] == [5]
    assert archive.newest == {
        "help-bot/alerts": 3, "help-bot/windows": 2, "shop-bot/alerts": 3, "shop-bot/windows": 2, "shop-bot/releases": 3,
    }  # fmt: skip


@pytest.mark.parametrize("point", [*POINTS, "before_trim", "after_trim"])
async def test_a_registry_that_is_killed_leaves_no_gap_no_double_and_removes_nothing_before_it_is_stored(
    log, monkeypatch, point
):
    await log.publish(8)
    await log.acknowledge()
    kills = 0

    def kill(name, *_):
        nonlocal kills
        if name in (f"registry.archive_{point}", f"registry.archive_after_{point}"):
            kills += 1
            raise Killed

    monkeypatch.setattr("services.registry.event_archive.failpoint", kill)
    for _ in range(6):  # each process dies at its first step of this kind; the next one continues
        with contextlib.suppress(Killed):
            await log.archiver().sweep(KEY)
        entry = await log.record.get(KEY)
        stored = {m.sequence for m in log.archived(entry.value)} if entry else set()
        assert set(range(1, await log.first())) <= stored
    monkeypatch.setattr("services.registry.event_archive.failpoint", lambda *_: None)
    archive = await log.archive()
    assert kills >= 1
    assert [m.sequence for m in log.archived(archive)] == list(range(1, 9))
    assert (archive.trimmed, await log.first()) == (3, 9)


async def test_several_registries_archive_each_message_once(log):
    await log.publish(20)
    await asyncio.gather(*(log.archiver().sweep(KEY) for _ in range(4)))
    archive = await log.archive()
    assert [m.sequence for m in log.archived(archive)] == list(range(1, 21))


async def test_the_log_keeps_what_a_service_a_release_the_audit_log_or_the_policy_needs(log):
    await log.publish(6)
    await log.publish(3, cf.AlertRaised)
    assert (await log.archive()).trimmed == 2, "no service has read the alerts of the third segment"
    await log.acknowledge()
    log.unaudited = 9
    assert (await log.archive()).trimmed == 2
    log.unaudited, log.oldest = None, log.clock.now()
    assert (await log.archive()).trimmed == 2
    log.oldest = None
    log.retain = Retain(timedelta(0), Keeping(90 * DAY, 0.7))
    log.clock.shift = 100 * DAY
    assert (await log.archive()).trimmed == 2, "the bus's clock did not move: this one jumped"
    log.retain = Retain(timedelta(0), Keeping(timedelta(0), 0.7))
    assert (await log.archive()).trimmed == 3


async def test_the_log_waits_for_an_optional_service_that_has_read_before_and_for_no_other(log):
    stream = StreamEventLog(lambda: log.js)
    await log.publish(2, cf.AlertRaised)
    assert await stream.unsent() is None, "it was never started"
    await stream.trim(1)
    assert await stream.unsent() is None
    pull = await log.js.pull_subscribe_bind(consumer=durable_name("notifier", cf.AlertRaised), stream=EVENTS)
    (message,) = await pull.fetch(1, timeout=5)
    await message.ack_sync()
    assert await stream.unsent() is None
    await log.publish(2, cf.AlertRaised)
    assert await stream.unsent() == 3


async def test_a_full_log_that_takes_no_more_events_is_trimmed_of_what_became_old(log, monkeypatch):
    """Its newest event gets no younger one behind it, but time goes on."""
    await log.publish(6)
    log.retain = Retain(timedelta(0), Keeping(90 * DAY, 0.0))
    assert (await log.archive()).trimmed == 0
    monkeypatch.setattr("decisions.event_archive.LEAST_KEPT", timedelta(seconds=0.5))
    async with asyncio.timeout(20):
        while (trimmed := (await log.archive()).trimmed) == 0:
            await asyncio.sleep(0.05)
    assert trimmed == 2


async def test_a_segment_that_is_not_what_was_signed_is_not_trimmed(log):
    await log.publish(3)
    log.retain = Retain(timedelta(0), Keeping(90 * DAY, 0.7))
    archive = await log.archive()
    for key in (segment_key(archive.id, 1), index_key(archive.id, 1)):
        was = log.store.find(key)
        log.store._erase(key)
        log.store.create(key, was[:-3])
        log.retain = Retain(timedelta(0), Keeping(timedelta(0), 0.7))
        with pytest.raises(Permanent):
            await log.archive()
        log.store._erase(key)
        log.store.create(key, was)
    assert await log.first() == 1
    assert (await log.archive()).trimmed == 1


async def test_what_was_written_over_a_segment_hides_nothing(log):
    await log.publish(3)
    archive = await log.archive()
    for key in (segment_key(archive.id, 1), index_key(archive.id, 1)):
        log.store._client.put_object(bucket_name=log.store.bucket, object_name=key, data=_Bytes(b"x"), length=1)
    assert [m.sequence for m in log.archived(archive)] == [1, 2, 3]


def _Bytes(data):  # noqa: N802
    import io

    return io.BytesIO(data)


async def test_a_restored_record_counts_the_segments_that_are_there_if_the_log_has_the_same_events(log):
    await log.publish(9)
    archive = await log.archive()
    entry = await log.record.get(KEY)
    older = archive.model_copy(
        update={"segment": 2, "archived": 3, "anchor": log.signed(archive, 1).anchor,
                "newest": {"shop-bot/windows": 1, "help-bot/windows": 1}, "trimmed": 0}
    )  # fmt: skip
    await log.record.update(KEY, older, entry.revision)
    assert (await log.archive()).segment == archive.segment
    assert [m.sequence for m in log.archived(archive)] == list(range(1, 10))


async def test_a_log_with_other_events_under_the_same_numbers_is_never_trimmed(log):
    await log.publish(6)
    await log.record.create(KEY, EventArchive(id="0123456789abcdef"))
    others = [message_of(number, f"{cf.WindowSummarised.TYPE}.m.monitor", f.START, "", b"{}") for number in (1, 2, 3)]
    mark = EventArchive(id="0123456789abcdef", sealing=3)
    put_segment(log.store, attester(log.keys, "registry"), mark, others)
    for _ in range(2):
        with pytest.raises(Permanent, match="has other events than the log; nothing is archived or trimmed"):
            await log.archive()
    assert await log.first() == 1
    assert (await log.record.get(KEY)).value.archived == 0


async def test_a_backup_of_a_log_that_is_trimmed_while_it_is_copied_is_refused(log):
    archive = EventArchive(id="0123456789abcdef", segment=2, archived=5)
    first = await log.record.create(KEY, archive)
    copied = StreamCopy(name=EVENTS, created="", config={}, state={"first_seq": 6}, chunks=())
    assert await archive_at(log.js, first, copied) == archive
    await log.record.update(KEY, archive.model_copy(update={"segment": 3, "archived": 9}), first)
    assert await archive_at(log.js, first, copied) == archive, "the copied log has what was archived since"
    trimmed = copied.model_copy(update={"state": {"first_seq": 10}})
    with pytest.raises(CommandError, match="archived and trimmed up to 9 while it was copied; run the command again"):
        await archive_at(log.js, first, trimmed)
