"""Commands on a log that was trimmed into the middle of a release, and on one that is trimmed while they read it."""

import asyncio
import json
import re
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from clients.cli.archived_events import read_alerts, read_whole
from clients.cli.connection import StackAddress
from clients.cli.event_log import OF_RELEASES, EventFilter
from clients.cli.event_selection import Selection, read_selected
from contracts import facts as cf
from contracts.envelope import source_of
from contracts.event_archive import BUCKET, KEY
from contracts.routes import Route
from contracts.services import EVENTS, stream_of
from shared.messaging.publishing import publish_event
from shared.storage.blobs import Store
from shared.storage.kv import Bucket
from testbed import factories as f
from testbed import released
from testbed.attesters import attester_keys
from testbed.services import environment
from testbed.story import Story, release_id
from tests.kit.archived_log import ArchivedLog
from tests.kit.command import run_command
from tests.kit.wiring import ROOT

MODEL, OTHER = "shop-bot", "help-bot"
REJECTED, PROMOTED, CUT, WAITING = 1, 2, 3, 4


def announced(opened):
    """Return the opening of a release and the announcement that it was opened from."""
    fact = opened.data.model_copy(update={"source_event_id": opened.causationid})
    fields = {name: getattr(fact, name) for name in cf.CheckpointReady.model_fields if name in type(fact).model_fields}
    checkpoint = f.event(
        f.fact(cf.CheckpointReady, **fields), id=fact.source_event_id, subject=fact.model, time=opened.time,
        source=source_of("support-training"), correlationid=fact.training.run_id,
    )  # fmt: skip
    return checkpoint, opened.model_copy(update={"data": fact})


def story_of(now):
    """Return four releases of a model, with their announcements and an approval, one of another, and an alert."""
    story, events = Story(now - timedelta(hours=6), assessments=2), []
    releases = [
        story.release(OTHER, 1, 9),
        story.release(MODEL, REJECTED, 1, until="rejected"),
        story.release(MODEL, PROMOTED, 2),
        story.release(MODEL, CUT, 3, manual=True),
    ]
    for each in (*releases, story.alert(MODEL), story.release(MODEL, WAITING, 4, until="approval", manual=True)):
        for event in each:
            events += announced(event) if isinstance(event.data, cf.ReleaseOpened) else (event,)
    return events


@pytest.fixture
async def log(js, settings, tmp_path, monkeypatch):
    """The events on a bus whose registry may trim it into the middle of a release."""
    monkeypatch.setattr("services.registry.event_archive.SEGMENT_EVENTS", 15)
    archived: Any = ArchivedLog(js, Store(settings), tmp_path)
    events = story_of(datetime.now(UTC))
    for event in events:
        await publish_event(js, event)
    logged = [event for event in events if stream_of(type(event.data)) == EVENTS]
    of_release = [number for number, event in enumerate(logged, 1) if event.correlationid == release_id(CUT)]
    archived.middle = of_release[len(of_release) // 2] + 15
    moved = [event.data.route for event in events if isinstance(event.data, cf.DeploymentChanged)]
    await Bucket(js, "routes", Route).create(MODEL, moved[-1])
    return archived


@pytest.fixture
def run(settings, tmp_path):
    variables = {**environment(settings), "SLIPWAY_ATTESTERS": str(attester_keys(tmp_path).listing)}

    async def run(*command):
        return await asyncio.to_thread(run_command, variables, *command)

    return run


async def trim(log, before):
    """Remove the segments of the log that end before a number; all if it is None."""
    log.unaudited, trimmed = before, await log.first()
    await log.acknowledge()
    await log.archive()
    assert await log.first() > trimmed


SAME = (
    *(("status", f"{MODEL}@v{version}", "--json") for version in (REJECTED, PROMOTED, CUT, WAITING)),
    ("show", f"{MODEL}@v{CUT}", "--json"),
    ("trace", f"{MODEL}@v{CUT}", "--json"),
    ("trace", f"{MODEL}@v0", "--json"),
    ("quarantine", "list", "--json"),
    ("promote", f"{MODEL}@v{WAITING}", "--reason", "none"),
    ("alerts", MODEL, "--all", "--json"),
    ("events", "--model", MODEL, "--json"),
    ("events", "--model", MODEL, "--limit", "70", "--json"),
    ("events", "--model", OTHER, "--type", "checkpoint.ready", "--json"),
    ("events", "--since", "7d", "--json"),
    ("events", "--type", "checkpoint.ready", "--type", "approval.granted", "--json"),
)
"""Commands that print the same before and after the log was trimmed."""


async def test_commands_print_the_same_after_the_log_was_trimmed_into_a_release(log, run, tmp_path):
    await asyncio.to_thread(released.release, log.store, tmp_path, MODEL, CUT)
    before = {command: await run(*command) for command in SAME}
    assert [command for command, (status, _, _) in before.items() if status] == [SAME[8]]
    times = [json.loads(line)["time"] for line in before[SAME[13]][1].splitlines()]
    assert times == sorted(times)
    await trim(log, log.middle)
    for command, outcome in before.items():
        assert await run(*command) == outcome, command


async def test_status_prints_the_newest_release_first(log, run):
    (_, data, _), (_, text, _) = await run("status", MODEL, "--json"), await run("status", MODEL)
    versions = [str(each["version"]) for each in json.loads(data)]
    assert len(versions) > 2
    assert re.findall(rf"^{MODEL} v(\d+)", text, re.MULTILINE) == versions[::-1]


async def test_commands_say_what_they_leave_out_of_a_trimmed_log(log, run):
    await trim(log, log.middle)
    status, out, err = await run("status", "--json")
    assert [each["version"] for each in json.loads(out)] == [WAITING], "of a release that the log cut, nothing"
    assert (status, "releases opened before" in err, "`slipway status MODEL@vN` reads" in err) == (0, True, True)
    status, out, err = await run("status", MODEL, "--json")
    assert ([each["version"] for each in json.loads(out)], "releases opened before" in err) == ([WAITING], True)
    status, _, err = await run("alerts", "--all")
    assert (status, "`slipway alerts MODEL --all` reads" in err) == (0, True)
    for command in ("status", "trace", "retry"):
        status, _, err = await run(command, release_id(REJECTED))
        assert (status > 0, "the event log, which begins at" in err, "MODEL@vN" in err) == (True, True, True), err
    await (await log.js.key_value(BUCKET)).delete(KEY)
    status, out, err = await run("events", "--model", MODEL, "--type", "release.*")
    assert (status, len(out.splitlines()), "the bus has no record of their archive" in err) == (0, 2, True), err


async def test_a_release_that_was_removed_from_the_log_is_awaited_and_tried_again(log, run):
    await trim(log, log.middle)
    status, out, _ = await run("status", f"{MODEL}@v{REJECTED}", "--until", "finished", "--timeout", "20")
    assert (status, "rejected" in out.splitlines()[-1]) == (3, True)
    status, out, err = await run("retry", f"{MODEL}@v{REJECTED}", "--json")
    assert (status, err) == (0, "")
    again = json.loads(out)
    assert (again["release_id"], again["version"]) == (release_id(REJECTED), REJECTED)
    assert again["attempt"] == f.fact(cf.ReleaseOpened).attempt + 1


@pytest.mark.parametrize("command", [("events", "--type", "rollback.started"), ("status", MODEL)], ids=" ".join)
async def test_what_follows_a_log_reads_on_from_its_end(log, settings, command):
    await publish_event(log.js, f.event(cf.WindowSummarised, id="window", subject=OTHER))
    last = (await log.js.stream_info(EVENTS)).state.last_seq
    program = (sys.executable, "-m", "clients.cli.main", *command, "--follow")
    following = await asyncio.create_subprocess_exec(
        *program, cwd=ROOT, env=environment(settings), stdout=asyncio.subprocess.DEVNULL
    )
    starts: set[int] = set()
    async with asyncio.timeout(20):
        while max(starts, default=1) == 1:
            consumers = [each.config for each in await log.js.consumers_info(EVENTS)]
            starts = {each.opt_start_seq or 1 for each in consumers if (each.name or "").startswith("cli-")}
    following.kill()
    await following.wait()
    assert starts == {last + 1}


class Trimming:
    """A bus whose log is trimmed once: before the log is read, or after it was asked where it begins."""

    def __init__(self, log, moment, before):
        self._log, self._moment, self._before = log, moment, before
        self._trimming = asyncio.Lock()

    def __getattr__(self, name):
        return getattr(self._log.js, name)

    async def add_consumer(self, stream, config, **limit):
        async with self._trimming:  # a reader asks again while it waits
            if (stream, self._moment) == (EVENTS, "before it is read"):
                await self._trim()
        return await self._log.js.add_consumer(stream, config, **limit)

    async def stream_info(self, stream):
        info = await self._log.js.stream_info(stream)
        if (stream, self._moment) == (EVENTS, "after its begin is known"):
            await self._trim()
        return info

    async def _trim(self):
        self._moment = ""
        await trim(self._log, self._before)


@pytest.mark.parametrize("moment", ["before it is read", "after its begin is known"])
async def test_nothing_is_missing_of_a_log_that_is_trimmed_while_it_is_read(log, settings, tmp_path, moment):
    stack = StackAddress(settings.model_copy(update={"attesters": attester_keys(tmp_path).listing}), None, "test")
    types, since = frozenset(cf.FACTS), datetime.now(UTC) - timedelta(days=1)
    readers = (
        lambda js: read_selected(js, stack, Selection(types, model=MODEL)),
        lambda js: read_whole(js, stack, MODEL, OF_RELEASES),
        lambda js: read_selected(js, stack, Selection(types, since=since)),
        lambda js: read_alerts(js, stack, MODEL, EventFilter(("alert.*",)), resolved=True),
    )
    expected = [await read(log.js) for read in readers]
    await trim(log, 16)
    for read, known, before in zip(readers, expected, (31, 46, 61, None), strict=True):
        again = await read(Trimming(log, moment, before))
        assert [(each.stream, each.sequence) for each in again] == [(each.stream, each.sequence) for each in known]
