"""The pure parts of delivery: how long to wait, and what may stand in a header."""

import asyncio
from types import SimpleNamespace

import pytest
from faststream.exceptions import AckMessage, NackMessage
from hypothesis import given
from hypothesis import strategies as st

from contracts.codes import ADVICE
from contracts.envelope import derived_id, plain
from contracts.facts import ApprovalGranted, CheckpointReady, InferenceBatch, OrderRefused, VariantFailed
from contracts.services import EVENTS, TELEMETRY, durable_name
from contracts.vocabulary import canonical_json
from shared.errors import Permanent, Transient
from shared.messaging.delivery import (
    ITEM_LIMIT_S,
    OBJECT_LIMIT_S,
    OBJECT_TRIES,
    OUTAGE_LIMIT_S,
    OUTAGES,
    RECORD_FAILURES,
    RECORD_LIMIT_S,
    Consumption,
    Delivery,
    answer,
    backoff_s,
    given_up,
    header_safe,
    is_spoiled,
    retried_s,
)
from shared.messaging.publishing import envelope
from shared.messaging.topology import consumers
from shared.runtime.clock import SystemClock
from shared.storage.objects import UnreadableObjects
from testbed import factories as k
from tests.kit.virtual_time import virtual_time
from tests.kit.wiring import built, services_with_handlers


def test_backoff_rises_and_stays_bounded():
    waits = [backoff_s(deliveries) for deliveries in range(1, 200)]
    assert waits == sorted(waits)
    assert waits[0] < 1.0
    assert waits[-1] == 30.0
    assert backoff_s(0) == backoff_s(-3) == waits[0]


@given(st.text(alphabet=st.characters(codec=None), max_size=3000))
def test_headers_are_one_line_of_plain_text(text):
    safe = header_safe(text)
    assert len(safe) <= 1000
    assert all(" " <= letter <= "~" for letter in safe)
    assert safe == safe.strip()


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("plain words", "plain words"),
        ("two\r\nlines: forged", "two lines: forged"),
        ("für Größe", "f?r Gr??e"),
        ("a\0b\x1bc\x7f", "a?b?c?"),
        ("lone \ud800", "lone ?"),
    ],
)
def test_examples(text, safe):
    assert header_safe(text) == safe


# -- how long the same failure is tried again -------------------------------------------------------------------------


TRANSIENT_CODES = sorted(ADVICE.keys() - {"object_unreadable"})
ADMISSION = durable_name("registry", CheckpointReady)


@given(st.integers(min_value=1, max_value=40_000))
def test_the_time_between_tries_is_what_the_backoff_waited(deliveries):
    assert retried_s(deliveries) == pytest.approx(sum(backoff_s(number) for number in range(1, deliveries)))
    assert retried_s(deliveries + 1) > retried_s(deliveries)


@given(st.sampled_from(TRANSIENT_CODES), st.integers(min_value=1, max_value=100_000))
def test_a_failure_of_one_item_ends_after_hours_one_of_everything_after_days(code, deliveries):
    limit = OUTAGE_LIMIT_S if code in OUTAGES else ITEM_LIMIT_S
    ended = given_up(Transient(code, "No."), deliveries)
    assert (ended is not None) == (retried_s(deliveries) >= limit)
    if ended is not None:
        assert isinstance(ended, Permanent)
        assert ended.code == "retries_exhausted"
        assert code in ended.reason
        assert "No." in ended.reason


def test_an_outage_of_a_weekend_ends_nothing():
    weekend = next(number for number in range(1, 50_000) if retried_s(number) > 3 * 86_400)
    assert all(given_up(Transient(code, "No."), weekend) is None for code in OUTAGES)
    assert given_up(Transient("engine_dead", "No."), weekend)


def test_a_message_that_waited_long_but_was_not_tried_is_not_given_up():
    """Neither a backlog nor a clock that jumps counts: only tries do."""
    assert given_up(Transient("engine_dead", "No."), 1) is None


def test_an_object_that_the_store_does_not_read_while_it_reads_others_ends_a_message_by_its_own_code():
    now_s = 0.0
    objects = UnreadableObjects(lambda: now_s)
    for _ in range(OBJECT_TRIES):
        assert given_up(objects.note_failure("blobs/a"), 50) is None
    now_s += OBJECT_LIMIT_S - 1
    assert given_up(objects.note_failure("blobs/a"), 50) is None
    now_s += 1
    assert given_up(objects.note_failure("blobs/b"), 50) is None
    ended = given_up(objects.note_failure("blobs/a"), 1)
    assert (type(ended), ended.code, ended.details["object"]) == (Permanent, "object_unreadable", "blobs/a")
    objects.note_read("blobs/a")
    assert given_up(objects.note_failure("blobs/a"), 50) is None


# -- what a failure becomes -------------------------------------------------------------------------------------------


def identity(fact, event, source):
    emit = answer(fact, source, event, event.subject)
    return envelope(emit, event, service="registry", clock=SystemClock()).id


def test_each_message_of_an_outsider_has_an_answer_of_its_own_and_a_message_that_comes_again_the_same():
    order = k.event(k.fact(ApprovalGranted), id="o1")
    refusal = k.fact(OrderRefused)
    first, again, second = (identity(refusal, order, source) for source in ("ORDERS:1", "ORDERS:1", "ORDERS:2"))
    assert first == again != second


def test_the_answer_to_a_service_follows_from_the_event_alone():
    event = k.event(k.fact(VariantFailed), id="f1")
    first, second = (identity(k.fact(OrderRefused), event, source) for source in ("EVENTS:1", "EVENTS:2"))
    assert first == second == derived_id("f1", OrderRefused.TYPE)


# -- what must not wait for one record --------------------------------------------------------------------------------


@given(st.sampled_from(TRANSIENT_CODES), st.integers(min_value=1, max_value=1000))
def test_what_perishes_is_dropped_after_a_minute_at_one_record_and_for_no_outage(code, deliveries):
    spoiled = is_spoiled(Transient(code, "No."), deliveries)
    assert spoiled == (code in RECORD_FAILURES and retried_s(deliveries) >= RECORD_LIMIT_S)
    assert not is_spoiled(Permanent(code, "No."), deliveries)


class Counting:
    """A host that only counts."""

    def __init__(self, consumption):
        self.consumptions = {consumption.durable: consumption}
        self.counted = []

    def count(self, fact, outcome):
        self.counted.append((fact, outcome))


@pytest.mark.parametrize(
    ("perishable", "code", "ends", "outcome"),
    [
        (True, "record_version_unknown", AckMessage, "dropped"),
        (True, "bus_unavailable", NackMessage, "retried"),
        (False, "record_version_unknown", NackMessage, "retried"),
    ],
)
async def test_telemetry_of_an_unusable_record_is_acknowledged_and_counted(perishable, code, ends, outcome):
    host = Counting(Consumption(InferenceBatch, TELEMETRY, "monitor", None, perishable))
    message = SimpleNamespace(metadata=SimpleNamespace(num_delivered=8, consumer="monitor"), subject="x")
    with pytest.raises(ends):
        await Delivery(message, context=None, bus=host)._settle(message, Transient(code, "No."))
    assert host.counted == [(InferenceBatch, outcome)]


@virtual_time
async def test_a_message_is_kept_from_others_until_its_failure_is_published():
    """A bus that changes its leader takes longer for it than a message without heartbeats is waited for."""
    beats, seen, event = [], [], k.event(k.fact(VariantFailed))

    async def in_progress():
        beats.append(1)

    class SlowBus(Counting):
        async def publish(self, _emit, cause):
            while len(beats) < 3:
                await asyncio.sleep(1)
            seen.append(cause.id)

    host = SlowBus(Consumption(VariantFailed, EVENTS, "registry", lambda _event, _error: k.fact(OrderRefused)))
    message = SimpleNamespace(
        metadata=SimpleNamespace(
            num_delivered=1, consumer="registry", stream=EVENTS, sequence=SimpleNamespace(stream=1)
        ),
        subject=event.nats_subject,
        data=canonical_json(plain(event)),
        in_progress=in_progress,
    )
    delivery = Delivery(message, context=None, bus=host)
    await delivery.on_receive()
    failure = Permanent("quantised_base", "No.")
    with pytest.raises(AckMessage):
        await delivery.after_processed(Permanent, failure, None)
    ended = len(beats)
    assert seen == [event.id]
    await asyncio.sleep(3600)
    assert len(beats) == ended, "none comes after the end"


def test_only_telemetry_perishes():
    consumptions = [read for service in services_with_handlers() for read in built(service).consumptions.values()]
    assert {read.fact for read in consumptions if read.perishable} == {InferenceBatch}
    assert all(read.perishable for read in consumptions if read.fact is InferenceBatch)


def test_messages_that_wait_for_one_model_do_not_stop_a_consumer():
    """A message that is returned with a delay counts as unacknowledged on the server."""
    limits = {config.durable_name: config.max_ack_pending for _, config in consumers()}
    assert {name: limit for name, limit in limits.items() if limit != -1} == {ADMISSION: 1}
