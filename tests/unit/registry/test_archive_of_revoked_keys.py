"""The archive after the registry's key was revoked: readable and trimmed once a segment by the new key names it."""

import json

import pytest

from contracts.event_archive import KEY, EventArchive
from decisions.event_archive import index_key, message_of, segment_key
from shared.errors import Permanent
from shared.provenance.event_archive import count_removed, put_segment, read_model
from testbed import factories as f
from tests.kit.archive_world import FOREVER, MODELS, ArchiveWorld

ID = "0123456789abcdef"


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setattr("services.registry.event_archive.SEGMENT_EVENTS", 2)
    return ArchiveWorld(tmp_path)


async def distrusted(world, segments=4):
    """Return the archive after segments were written, the key was revoked, and another segment was written."""
    world.publish(2 * segments)
    await world.archive(FOREVER)
    world.distrust()
    world.publish(2)
    return await world.archive(FOREVER)


def numbers(messages):
    return [message.sequence for message in messages]


async def test_all_segments_before_one_by_the_new_key_are_read_and_reported_once(world):
    archive = await distrusted(world)
    indexes = world.indexes()
    for number in (1, 3, 2, 4, 5):
        assert numbers(world.read(indexes, archive, number)) == [2 * number - 1, 2 * number]
    assert [report.partition(" ")[0] for report in world.reports] == [index_key(archive.id, 1)]
    assert "is signed by a revoked key: registry's key " in world.reports[0]


async def test_the_log_is_trimmed_and_models_are_read_after_the_key_was_revoked(world):
    await distrusted(world)
    archive = await world.archive()
    assert (archive.trimmed, world.log.messages) == (5, {})
    own = read_model(world.indexes(), archive, MODELS[0], ("windows",))
    assert numbers(own) == [2, 4, 6, 8, 10]
    behind = archive.model_copy(update={"trimmed": 0, "trimmed_newest": {}})
    assert count_removed(world.indexes(), behind, 11) == archive


async def test_a_key_may_be_revoked_more_than_once(world):
    await distrusted(world)
    for _ in range(2):
        world.distrust()
        world.publish(2)
        await world.archive(FOREVER)
    assert (await world.archive()).trimmed == 7


async def test_without_a_segment_by_the_new_key_nothing_is_trimmed_and_the_reason_says_what_is_missing(world):
    world.publish(8)
    archive = await world.archive(FOREVER)
    world.distrust()
    with pytest.raises(Permanent, match="no later segment by a key that counts names it yet") as refused:
        await world.archive()
    assert refused.value.code == "key_not_trusted"
    assert len(world.log.messages) == 8
    with pytest.raises(Permanent, match="was revoked at"):
        world.indexes().require(archive.id, 1)


async def test_what_is_remembered_of_one_list_of_keys_does_not_count_for_another(world):
    archive, indexes = await distrusted(world), world.indexes()
    assert indexes.require(archive.id, 1).number == 1
    world.distrust()
    with pytest.raises(Permanent, match="no later segment"):
        indexes.require(archive.id, 1)


def forge(world, archive, signer, number, previous):
    """Write another segment and index under a number, as who has the revoked key can."""
    first = 2 * number - 1
    forged = EventArchive(id=archive.id, segment=number, sealing=first + 1, archived=first - 1, anchor=previous)
    others = Overwriting(world.store)
    events = [message_of(n, "slipway.release.opened.v1.m.registry", f.after(n), "", b"{}") for n in (first, first + 1)]
    put_segment(others, signer, forged, events)


class Overwriting:
    """A store in which what is created is written over what is there."""

    def __init__(self, store):
        self.store = store

    def create(self, key, data, _retention):
        self.store.put(key, data)

    def __getattr__(self, name):
        return getattr(self.store, name)


@pytest.mark.parametrize("follows", ["the same", "another"])
@pytest.mark.parametrize("number", [1, 2, 4])
async def test_an_index_that_the_revoked_key_signed_anew_does_not_count(world, number, follows):
    world.publish(8)
    before, signer = await world.archive(FOREVER), world.registry_key()
    previous = world.indexes().find(before.id, number).previous if follows == "the same" else f.digest("another")
    world.distrust()
    forge(world, before, signer, number, previous)
    world.publish(2)
    archive = await world.archive(FOREVER)
    indexes = world.indexes()
    for each in range(1, 6):  # each is read in its first version, whether it or the forged one is on the way
        assert numbers(world.read(world.indexes(), archive, each)) == [2 * each - 1, 2 * each]
        assert numbers(world.read(indexes, archive, each)) == [2 * each - 1, 2 * each]
    assert (await world.archive()).trimmed == 5


async def test_an_index_that_was_forged_where_none_was_stops_the_archive_and_removes_nothing(world):
    world.publish(4)
    before, signer = await world.archive(FOREVER), world.registry_key()
    world.distrust()
    world.publish(2)
    forge(world, before, signer, 3, before.anchor)
    with pytest.raises(Permanent, match="digest_mismatch"):
        await world.archive()
    assert len(world.log.messages) == 6


async def test_an_index_that_was_forged_beyond_the_end_of_the_log_is_not_waited_for(world):
    world.publish(4)
    before, key = await world.archive(FOREVER), world.registry_key()
    world.distrust()
    forge(world, before, key, 3, before.anchor)
    with pytest.raises(Permanent, match="has other events than the log"):
        await world.archive()


async def test_a_segment_that_was_written_and_not_counted_when_the_key_was_revoked_is_counted(world):
    """Its events are all in the log, which proves it."""
    world.publish(4)
    before = await world.archive(FOREVER)
    marked = before.model_copy(update={"sealing": 6})
    world.publish(2)
    put_segment(world.store, world.registry_key(), marked, [world.log.messages[5], world.log.messages[6]])
    world.distrust()
    world.publish(2)
    assert (await world.archive()).trimmed == 4
    assert numbers(world.archived(await world.state(), 3)) == [5, 6]


async def test_such_a_segment_does_not_count_once_the_log_has_not_all_of_its_events(world):
    world.publish(2)
    put_segment(world.store, world.registry_key(), EventArchive(id=ID, sealing=2), list(world.log.messages.values()))
    await world.record.create(KEY, EventArchive(id=ID))
    world.distrust()
    await world.log.trim(1)
    with pytest.raises(Permanent, match="key_not_trusted"):
        await world.archive()


async def test_an_index_with_parts_of_its_own_is_not_counted_though_its_events_are_those_of_the_log(world):
    world.publish(2)
    old, created = world.registry_key(), EventArchive(id=ID, sealing=2, newest={f"{MODELS[1]}/windows": 7})
    put_segment(world.store, old, created, list(world.log.messages.values()))
    await world.record.create(KEY, EventArchive(id=ID))
    world.distrust()
    with pytest.raises(Permanent, match="is another index"):
        await world.archive()


async def test_each_index_is_opened_once_on_the_way_to_the_one_that_counts(world):
    archive = await distrusted(world, segments=40)
    indexes = world.indexes()
    world.store.reads.clear()
    for number in range(1, 42):
        indexes.require(archive.id, number)
    assert len(world.store.reads) == 40 + 41


async def test_an_index_that_names_itself_another_number_or_archive_is_refused(world):
    archive = await distrusted(world)
    world.store.put(index_key(archive.id, 2), world.store.find(index_key(archive.id, 3)))
    assert numbers(world.archived(archive, 2)) == [3, 4], "its first version"
    world.store.versions_of[index_key(archive.id, 2)] = [world.store.find(index_key(archive.id, 3))]
    with pytest.raises(Permanent, match="stored as number 2"):
        world.archived(archive, 2)
    with pytest.raises(Permanent, match="no later segment"):  # what it would have named
        world.archived(archive, 1)


async def test_a_segment_that_is_not_what_a_proven_index_names_is_refused(world):
    archive = await distrusted(world)
    world.store.versions_of[segment_key(archive.id, 2)] = [json.dumps({}).encode()]
    with pytest.raises(Permanent, match="not what was signed"):
        world.archived(archive, 2)
