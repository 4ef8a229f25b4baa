"""Segments of the archived event log: nothing is lost or changed in one, and what is needed stays in the log."""

import gzip
import json
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.event_archive import EventArchive
from contracts.facts import FACTS, AlertRaised, WindowSummarised
from contracts.services import EVENTS, stream_of
from decisions.event_archive import (
    LEAST_KEPT,
    NEEDED_SKEW,
    NOTICE_AGE,
    SEGMENT_EVENTS,
    Keeping,
    LogState,
    Needs,
    advance,
    body_of,
    group_of,
    index_of,
    is_due,
    message_of,
    model_of,
    pack,
    trim,
    unpack,
    why_kept,
)
from testbed import factories as f

SUBJECTS = [
    f"{type_}.{model}.sender"
    for type_ in (
        *(type_ for type_, fact in FACTS.items() if stream_of(fact) == EVENTS),
        AlertRaised.TYPE.replace("slipway.", "slipway.staging.", 1),
    )
    for model in ("shop-bot", "help-bot", "m")
]
MESSAGES = st.lists(
    st.tuples(st.sampled_from(SUBJECTS), st.binary(max_size=40) | st.text(max_size=40).map(str.encode)),
    min_size=1,
    max_size=30,
).map(
    lambda made: [
        message_of(number * 2, subject, f.after(number), f"id-{number}", body)
        for number, (subject, body) in enumerate(made, 1)
    ]
)
ARCHIVE = EventArchive(id="0123456789abcdef", segment=4, archived=1, sealing=99, newest={"m/alerts": 2})


@given(MESSAGES)
def test_a_segment_has_every_message_and_its_index_finds_those_of_a_model(messages):
    segment = pack(messages)
    index = index_of(ARCHIVE, segment)
    assert unpack(segment) == messages
    assert [json.loads(line) for line in gzip.decompress(segment).splitlines()]
    assert (index.first, index.last, index.begins_at, index.ends_at) == (2, 99, messages[0].at, messages[-1].at)
    collected = []
    for part in index.parts:
        chosen = unpack(segment[part.offset_bytes : part.offset_bytes + part.size_bytes])
        assert {(model_of(each.subject), group_of(each.subject)) for each in chosen} == {(part.model, part.group)}
        assert (part.events, part.first, part.last) == (len(chosen), chosen[0].sequence, chosen[-1].sequence)
        assert part.before == (2 if (part.model, part.group) == ("m", "alerts") else 0)
        collected += chosen
    assert sorted(collected, key=lambda each: each.sequence) == messages
    after = advance(ARCHIVE, index, f.digest("envelope"))
    assert (after.segment, after.archived, after.sealing) == (5, 99, 0)
    assert after.newest == {"m/alerts": 2} | {f"{part.model}/{part.group}": 4 for part in index.parts}


@given(st.binary(max_size=60))
def test_bytes_stay_what_they_are(body):
    assert body_of(message_of(1, SUBJECTS[0], f.START, "", body)) == body


@given(MESSAGES, st.data())
def test_a_segment_that_was_cut_off_is_refused_or_lacks_whole_parts(messages, data):
    segment = pack(messages)
    cut = segment[: data.draw(st.integers(0, len(segment) - 1))]
    try:
        left = unpack(cut)
    except ValueError:
        return
    assert cut == pack(left)
    assert left != messages


@pytest.mark.parametrize(
    ("subject", "group", "model"),
    [
        (f"{WindowSummarised.TYPE}.shop-bot.monitor", "windows", "shop-bot"),
        ("slipway.staging.alert.raised.v1.shop-bot.monitor", "alerts", "shop-bot"),
        ("slipway.release.opened.v1.shop-bot.registry", "releases", "shop-bot"),
        ("strange", "releases", "_"),
    ],
)
def test_what_is_read_together_lies_together(subject, group, model):
    assert (group_of(subject), model_of(subject)) == (group, model)


def log(**changes):
    state = {"first": 1, "last": 10, "messages": 10, "bytes": 1000, "limit_bytes": 10_000, "bus_at": f.after(0)}
    return LogState(**{**state, **changes})


def test_a_segment_is_due_when_it_is_full_or_its_first_message_is_old():
    hour, archive = timedelta(hours=1), EventArchive(id="0123456789abcdef", archived=5)
    assert not is_due(archive, log(), None, f.after(9999), hour), "there is nothing to archive"
    assert not is_due(archive, log(), f.after(0), f.after(3599), hour)
    assert is_due(archive, log(), f.after(0), f.after(3600), hour)
    assert is_due(archive, log(last=5 + SEGMENT_EVENTS), f.after(0), f.after(0), hour)
    assert not is_due(archive, log(last=4 + SEGMENT_EVENTS), f.after(0), f.after(0), hour)
    assert is_due(archive, log(bytes=10 * 4 * 1024**2), f.after(0), f.after(0), hour)
    assert not is_due(archive, log(first=10**6, last=10**6 + 1), f.after(0), f.after(0), hour), "most were removed"


@given(
    age_h=st.integers(0, 24 * 120),
    ahead_h=st.integers(-24 * 365, 24 * 365),
    full=st.booleans(),
    release=st.none() | st.integers(-48, 48),
    unread=st.none() | st.integers(1, 30),
)
def test_nothing_that_is_needed_or_young_is_removed_whatever_a_clock_says(age_h, ahead_h, full, release, unread):
    index = index_of(ARCHIVE, pack([message_of(10, SUBJECTS[0], f.after(0), "", b"x")])).model_copy(update={"last": 20})
    now = index.ends_at + timedelta(hours=age_h)
    state = log(bus_at=now, bytes=9000 if full else 1000)
    since = index.ends_at + timedelta(hours=release) if release is not None else None
    keeping = Keeping(timedelta(days=90), 0.7)
    why = why_kept(index, state, Needs(since, unread), keeping, now + timedelta(hours=ahead_h))
    if why is None:
        assert timedelta(hours=age_h) >= (LEAST_KEPT if full else keeping.age)
        assert since is None or index.ends_at < since - NEEDED_SKEW
        assert unread is None or unread > index.last
    elif why == "age" and ahead_h >= 0:
        assert timedelta(hours=age_h) < keeping.age


@pytest.mark.parametrize(
    ("age", "filled", "unsent", "kept"),
    [
        (LEAST_KEPT, 0.8, 15, True),
        (NOTICE_AGE - timedelta(hours=1), 0.8, 20, True),
        (NOTICE_AGE, 0.8, 15, False),
        (LEAST_KEPT, 0.86, 15, False),
        (LEAST_KEPT, 0.8, 21, False),
        (LEAST_KEPT, 0.8, None, False),
    ],
    ids=["read by none", "nearly too old", "too old to be sent", "no space", "read", "never started"],
)
def test_a_nearly_full_log_waits_for_a_notifier_that_is_down_while_its_alerts_would_be_sent(age, filled, unsent, kept):
    index = index_of(ARCHIVE, pack([message_of(10, SUBJECTS[0], f.after(0), "", b"x")])).model_copy(update={"last": 20})
    now = index.ends_at + age
    state = log(bus_at=now, bytes=int(filled * 10_000), limit_bytes=10_000)
    why = why_kept(index, state, Needs(None, None, unsent), Keeping(timedelta(days=90), 0.7), now)
    assert why == ("unsent" if kept else None)


def test_where_the_log_is_trimmed_the_alerts_that_are_open_and_the_newest_segments_are_known():
    def alert(number, kind, alert_id, model="m"):
        body = json.dumps({"data": {"alert_id": alert_id}}).encode()
        return message_of(number, f"slipway.alert.{kind}.v1.{model}.monitor", f.after(number), "", body)

    first = [alert(1, "raised", "a"), alert(2, "raised", "b"), alert(3, "raised", "c", "shop-bot")]
    second = [
        alert(4, "resolved", "a"),
        alert(5, "updated", "b"),
        message_of(6, "slipway.alert.raised.v1.m.monitor", f.after(6), "", b"\xff["),
        alert(7, "resolved", "never raised"),
    ]
    start = EventArchive(id="0123456789abcdef", sealing=3)
    index = index_of(start, pack(first))
    between = trim(start, index, first)
    assert between.open_alerts == {"m": {"a": 1, "b": 1}, "shop-bot": {"c": 1}}
    following = advance(between, index, f.digest("envelope")).model_copy(update={"sealing": 7})
    after = trim(following, index_of(following, pack(second)), second)
    assert after.open_alerts == {"m": {"b": 2}, "shop-bot": {"c": 1}}
    assert (after.trimmed, after.trimmed_newest) == (2, {"m/alerts": 2, "shop-bot/alerts": 1})
