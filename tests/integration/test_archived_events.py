"""Commands say the same of events before and after they were removed from the log, on a real bus and store."""

import asyncio
import contextlib
import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import pytest
import yaml

from clients.cli.event_log import OF_RELEASES, read_history
from clients.cli.recent_releases import read_recent
from contracts.event_archive import BUCKET, KEY, EventArchive
from contracts.facts import CheckpointReady, WindowSummarised
from contracts.services import EVENTS, INBOX
from decisions.event_archive import segment_key
from decisions.release_projection import join, project
from services.console.adapters.archived_log import WholeLog
from services.console.adapters.log import StreamLog
from shared.messaging.publishing import publish_event
from shared.storage.blobs import Store
from shared.storage.kv import Bucket
from testbed import factories as f
from testbed.attesters import attester_keys, trust
from testbed.services import environment
from testbed.story import Story, release_id
from tests.kit.archived_log import ArchivedLog
from tests.kit.command import run_command

MODEL, OTHER = "shop-bot", "help-bot"


async def publish_story(js, now):
    """Publish two releases of a model and one of another, windows, an alert that ended and one that is open."""
    story = Story(now - timedelta(hours=6), assessments=2)
    events = [f.event(CheckpointReady, subject="new-bot", time=now)]
    for model, version, number in ((MODEL, 1, 1), (OTHER, 1, 2), (MODEL, 2, 3)):
        events += story.release(model, version, number, until="promoted")
    events += story.alert(MODEL, roll_back=True)
    events += story.alert(OTHER, roll_back=False)
    events += story.windows(MODEL, 5, ttft_ms=100.0, requests=50)
    for event in events:
        await publish_event(js, event)


@pytest.fixture
async def log(js, settings, tmp_path, monkeypatch):
    monkeypatch.setattr("services.registry.event_archive.SEGMENT_EVENTS", 15)
    await publish_story(js, datetime.now(UTC))
    return ArchivedLog(js, Store(settings), tmp_path)


async def test_commands_say_the_same_after_the_log_was_trimmed(log, settings, tmp_path):
    policy = tmp_path / "policy.yaml"
    policy.write_text(yaml.safe_dump(f.policy().model_dump(mode="json")))
    variables = {**environment(settings), "SLIPWAY_ATTESTERS": str(attester_keys(tmp_path).listing)}

    async def rate_of(model):
        explain = ("policy", "explain", str(policy), "--model", model, "--json")
        return json.loads((await asyncio.to_thread(run_command, variables, *explain))[1])["Requests and time"][0]

    async def run_all():
        commands = (
            ("status", f"{MODEL}@v1", "--json"),
            ("status", f"{OTHER}@v1", "--json"),
            ("show", f"{MODEL}@v1", "--json"),
            ("alerts", "--json"),
            ("alerts", OTHER, "--json"),
            ("alerts", MODEL, "--all", "--json"),
            ("events", "--model", MODEL, "--json"),
            ("events", "--model", MODEL, "--type", "alert.*", "--json"),
            ("events", "--since", "7d", "--type", "window.*", "--json"),
            ("replay", MODEL, "--policy", str(policy), "--json"),
        )
        return {command: await asyncio.to_thread(run_command, variables, *command) for command in commands}

    before = await run_all()
    assert f"({MODEL} in the last 24h)" in await rate_of(MODEL)
    _, everything, _ = await asyncio.to_thread(run_command, variables, "events", "--json")
    for pattern in ("alert.*", "checkpoint.ready", "release.opened", "checkpoint.*"):
        _, some, _ = await asyncio.to_thread(run_command, variables, "events", "--type", pattern, "--json")
        kind = f'"type": "slipway.{pattern.removesuffix("*")}'
        assert some.splitlines() == [line for line in everything.splitlines() if kind in line] != [], pattern
    assert {status for status, _, _ in before.values()} == {0}
    assert await asyncio.to_thread(run_command, variables, "events", "--type", "work.progressed") == (0, "", "")
    await log.acknowledge()
    archive = await log.archive()
    assert archive.trimmed == archive.segment - 1 > 3
    state = (await log.js.stream_info(EVENTS)).state
    assert (state.messages, state.first_seq) == (0, state.last_seq + 1)
    assert archive.open_alerts.keys() == {OTHER}
    after = await run_all()
    for command, outcome in before.items():
        assert after[command] == outcome, command
    assert f"({MODEL} in the last 24h)" in await rate_of(MODEL)
    assert (await rate_of("model-without-traffic")).startswith("At 1 requests/s")
    status, out, err = await asyncio.to_thread(run_command, variables, "status", "--json")
    assert (status, out.strip()) == (0, "[]"), "an old announcement is not one that waits"
    assert "releases opened before" in err
    status, out, _ = await asyncio.to_thread(run_command, variables, "status")
    assert (status, out.startswith("the event log has no release")) == (0, True)
    assert (await log.js.stream_info(INBOX)).state.messages == 1
    status, _, err = await asyncio.to_thread(run_command, variables, "events")
    assert (status, "in the archive: --model or --since reads them, too" in err) == (0, True)


async def read_all(log):
    """Return what a follower of the log reads, from its beginning."""
    start, read = 1, []
    while (await log.identity(EVENTS))[1] >= start:
        start, events = await log.read(EVENTS, start, 1.0)
        read += events
    return read


@pytest.mark.parametrize("piece", [4, 500])
async def test_an_index_that_is_built_anew_has_all_events_of_a_trimmed_log(log, settings, tmp_path, monkeypatch, piece):
    monkeypatch.setattr("services.console.adapters.archived_log.PIECE", piece)

    def whole():
        record = Bucket(log.js, BUCKET, EventArchive)
        return WholeLog(StreamLog(lambda: log.js), lambda: record, Store(settings), trust(tmp_path), retry_s=0)

    async with contextlib.aclosing(whole()) as before:
        events = await read_all(before)
    assert len(events) > 50
    await log.acknowledge()
    last = events[-1].event
    assert (await log.archive()).trimmed > 3
    await publish_event(log.js, f.event(last.data, id="after", subject=last.subject))
    async with contextlib.aclosing(whole()) as after:
        again = await read_all(after)
    assert again[:-1] == events
    assert again[-1].event.id == "after"


class Killed(Exception):  # noqa: N818 - it stands for the end of a process
    """The registry ended here."""


async def test_nothing_is_missing_where_a_registry_was_killed_before_it_counted_what_it_removed(
    log, settings, tmp_path, monkeypatch
):
    record = Bucket(log.js, BUCKET, EventArchive)
    command = ({**environment(settings), "SLIPWAY_ATTESTERS": str(attester_keys(tmp_path).listing)}, "events")
    command += ("--model", OTHER, "--json")
    shown = await asyncio.to_thread(run_command, *command)
    events = await read_all(StreamLog(lambda: log.js))
    await log.acknowledge()

    def kill(name, *_):
        if name == "registry.archive_after_trim":
            raise Killed

    monkeypatch.setattr("services.registry.event_archive.failpoint", kill)
    with pytest.raises(Killed):
        await log.archive()
    assert ((await record.get(KEY)).value.trimmed, await log.first()) == (0, 16)
    whole = WholeLog(StreamLog(lambda: log.js), lambda: record, Store(settings), trust(tmp_path), retry_s=0)
    assert await read_all(whole) == events
    assert await asyncio.to_thread(run_command, *command) == shown


@pytest.mark.parametrize("read_before", [0, 7])
async def test_an_index_that_is_built_while_the_log_is_trimmed_has_all_events(log, settings, tmp_path, read_before):
    class Trimmed(StreamLog):
        """Reads some events of the log, which is trimmed then."""

        is_trimmed = False

        async def read(self, stream, start, wait_s):
            after, read = await super().read(stream, start, wait_s)
            if self.is_trimmed:
                return after, read
            self.is_trimmed = True
            await log.acknowledge()
            await log.archive()
            await publish_event(log.js, f.event(read[0].event.data, id="after", subject=MODEL))
            _, rest = await StreamLog(lambda: log.js).read(stream, await log.first(), 1.0)
            return rest[-1].sequence + 1, [*read[:read_before], *rest]

    events = await read_all(StreamLog(lambda: log.js))
    record = Bucket(log.js, BUCKET, EventArchive)
    whole = WholeLog(Trimmed(lambda: log.js), lambda: record, Store(settings), trust(tmp_path), retry_s=0)
    again = await read_all(whole)
    assert again[:-1] == events
    assert again[-1].event.id == "after"


async def test_what_a_revoked_key_signed_is_shown_with_a_warning_once_a_segment_by_the_new_key_names_it(
    log, settings, tmp_path
):
    command = ({**environment(settings), "SLIPWAY_ATTESTERS": str(attester_keys(tmp_path).listing)}, "events")
    command += ("--model", OTHER, "--json")
    await log.acknowledge()
    trimmed = (await log.archive()).trimmed
    _, shown, err = await asyncio.to_thread(run_command, *command)
    assert (len(shown.splitlines()) > 3, err) == (True, "")
    attester_keys(tmp_path).revoke("registry", datetime.now(UTC))
    status, _, err = await asyncio.to_thread(run_command, *command)
    assert status != 0
    assert "no later segment by a key that counts names it yet" in err
    await publish_event(log.js, f.event(WindowSummarised, subject=MODEL, id="after"))
    await log.acknowledge()
    assert (await log.archive()).trimmed == trimmed + 1
    status, again, err = await asyncio.to_thread(run_command, *command)
    assert (status, again) == (0, shown)
    assert err.count("has segments by revoked keys: events/") == 1
    assert "compare with a backup from before" in err
    record = Bucket(log.js, BUCKET, EventArchive)
    whole = WholeLog(StreamLog(lambda: log.js), lambda: record, Store(settings), trust(tmp_path), retry_s=0)
    assert (await whole.read(EVENTS, 1, 0.1))[0] == 16


async def test_an_archive_that_cannot_be_read_is_tried_again_and_nothing_is_left_out(log, settings, tmp_path):
    await log.acknowledge()
    archive = await log.archive()
    record, key = Bucket(log.js, BUCKET, EventArchive), segment_key(archive.id, 1)
    was = log.store.find(key)
    log.store._erase(key)
    log_of = WholeLog(StreamLog(lambda: log.js), lambda: record, Store(settings), trust(tmp_path), retry_s=0)
    assert await log_of.read(EVENTS, 1, 0.1) == (1, ())
    log.store.create(key, was)
    after, events = await log_of.read(EVENTS, 1, 0.1)
    assert (after, [each.sequence for each in events]) == (16, list(range(1, 16)))


@pytest.mark.parametrize("newest", [1, 3, 20])
async def test_the_newest_releases_and_those_under_way_are_read_without_the_rest(js, monkeypatch, newest):
    monkeypatch.setattr("clients.cli.recent_releases._SPAN", 8)
    story = Story(datetime.now(UTC), assessments=2)
    for number in range(1, 21):
        for event in story.release(f"bot-{number}", 1, number, until="rejected"):
            await publish_event(js, event)
        if number == 2:
            await asyncio.sleep(0.05)
    releases = await js.key_value("releases")
    opened_at = (await js.get_msg(EVENTS, 1)).time.isoformat()
    await releases.put("bot-1.model", json.dumps({"schema_version": 1, "open": [release_id(1)]}).encode())
    await releases.put("bot-2.model", json.dumps({"schema_version": 1, "open": []}).encode())
    record = json.dumps({"schema_version": 1, "opened_at": opened_at}).encode()
    await releases.put(f"bot-1.{release_id(1)}", record)
    events, more = await read_recent(js, newest)
    shown = join(project(each.event for each in events))
    expected = {f"bot-{number}" for number in range(21 - newest, 21)}
    assert {release.model for release in shown.values()} >= expected | {"bot-1"}
    assert more == (newest < 20)
    assert len(events) == len({(each.stream, each.sequence) for each in events})
    if newest < 20:
        assert len(shown) < newest + 4, "little else was read"
        whole = join(project(each.event for each in await read_history(js, None, OF_RELEASES)))
        for key, release in shown.items():
            assert asdict(whole[key]) == asdict(release)
