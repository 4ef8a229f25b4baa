"""What `slipway status` reads: the registry's records of releases, and checkpoints that have none yet or were refused."""

import uuid

import pytest

from clients.cli.releases.names import Name, parse_name
from clients.cli.releases.recorded_releases import last_announced, newest_release, read_releases
from contracts import facts as f
from contracts.envelope import plain
from contracts.routes import Route
from contracts.vocabulary import canonical_json
from shared.storage.kv import Bucket
from testbed import factories
from testbed.factories import MODEL, after

KNOWN = ("r-0123456789abcdef-1", "r-0123456789abcdef-2", "r-0123456789abcdef-3")
NAME = Name(MODEL)
RECORD = {"schema_version": 1}


@pytest.fixture
def written(js):
    """Return what writes the records of releases 1 to `number` of a model; the last one has these fields."""

    async def write(number, **last):
        for version in range(1, number + 1):
            known = KNOWN[version - 1]
            changes = last if version == number else {"outcome": "promoted", "finished_at": after(200 + version)}
            about = {"release_id": known, "version": version, "opened_at": after(version), **changes}
            opened = factories.fact(f.ReleaseOpened, release_id=known, version=version, source_event_id=f"e{version}")
            record = {"opened": opened, "progress": factories.progress(**about)}
            whole = {name: each.model_dump(mode="json", by_alias=True) for name, each in record.items()}
            await js.publish(f"$KV.releases.{MODEL}.{known}", canonical_json({**RECORD, **whole}))
        reservations = {KNOWN[version - 1]: version for version in range(1, number + 1)}
        open_ids = [] if last.get("outcome") else [KNOWN[number - 1]]
        model = {**RECORD, "open": open_ids, "reservations": reservations}
        await js.publish(f"$KV.releases.{MODEL}.model", canonical_json(model))

    return write


async def publish(js, kind, **changes):
    fields = {name: changes.pop(name) for name in list(changes) if name in kind.model_fields}
    event = factories.event(factories.fact(kind, **fields), **({"id": str(uuid.uuid4())} | changes))
    return (await js.publish(event.nats_subject, canonical_json(plain(event)))).seq


async def announcements(js, last_sequence, *waiting):
    """Write the registry's record of announcements: it has received those up to a sequence."""
    record = {**RECORD, "waiting": waiting, "last_sequence": last_sequence, "last_stored_at": "2126-01-01T00:00:00Z"}
    await js.publish(f"$KV.releases.{MODEL}.announcements", canonical_json(record))


async def newest(js):
    return await newest_release(js, NAME, await last_announced(js, MODEL))


async def test_releases_are_read_by_model_version_and_id_and_all_of_them_if_asked_for(js, written):
    await written(3)
    assert [each.progress.version for each in await read_releases(js, MODEL)] == [1, 2, 3]
    assert [each.progress.version for each in await read_releases(js, None)] == [3]
    assert [each.progress.version for each in await read_releases(js, None, every=True)] == [1, 2, 3]
    for text, version in ((MODEL, 3), (f"{MODEL}@v2", 2), (KNOWN[0], 1)):
        assert (await newest_release(js, parse_name(text), None)).progress.version == version
    assert await newest_release(js, Name("other"), None) is None


async def test_an_announcement_is_the_newest_release_until_the_registry_has_dealt_with_it(js, written):
    """Else whoever waits for the end of what was just published would see the end of the release before."""
    await written(1, outcome="promoted", finished_at=after(100))
    sequence = await publish(js, f.CheckpointReady, id="e2", correlationid="run-2")
    waiting = await newest(js)
    assert (waiting.progress.state, waiting.progress.run_id, waiting.source_id) == ("admitting", "run-2", "e2")
    about = {"event_id": "e2", "correlation_id": "run-2", "stored_at": "2026-11-24T09:40:00Z", "reason": "No store."}
    await announcements(js, sequence, about)
    assert (await newest(js)).progress.steps[0].detail == "No store."
    assert [each.progress.state for each in await read_releases(js, None)][-1] == "admitting"
    await announcements(js, sequence)
    assert (await newest(js)).progress.version == 1, "it was the same checkpoint again"
    await written(2)
    assert (await newest(js)).progress.version == 2


async def test_a_refused_checkpoint_is_shown_where_it_is_the_newest(js, written):
    await written(1, outcome="promoted", finished_at=after(100))
    await publish(js, f.CheckpointReady, id="e2", correlationid="run-2")
    about = {"source": "/slipway/registry", "causationid": "e2", "correlationid": "run-2", "time": after(300)}
    await publish(js, f.CheckpointRejected, code="policy_missing", **about)
    refused = await newest(js)
    assert (refused.progress.outcome, refused.progress.code, refused.source_id) == ("rejected", "policy_missing", "e2")
    assert [each.progress.outcome for each in await read_releases(js, None)] == ["promoted", "rejected"]


async def test_a_rollback_after_the_promotion_is_shown_until_the_version_serves_again(js, written):
    await written(2, outcome="promoted", finished_at=after(100))
    failed = factories.target(2)
    await publish(js, f.RollbackCompleted, failed=failed, correlationid="alert-1", time=after(400))
    assert "support-bot.v2.int8 was rolled back" in (await newest(js)).rolled_back
    shown = {each.progress.version: bool(each.rolled_back) for each in await read_releases(js, MODEL)}
    assert shown == {1: False, 2: True}
    await Bucket(js, "routes", Route).create(MODEL, factories.route(active=factories.served(2), canary=None))
    assert (await newest(js)).rolled_back == ""
