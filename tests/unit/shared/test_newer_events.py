"""Events of a newer version: unknown fields change nothing, unknown values wait for a replica that knows them."""

import pytest

from contracts.envelope import Event, nats_subject, plain
from contracts.facts import FACTS, CheckpointMerged, CheckpointReady, ReleaseOpened, VariantFailed, VariantRequested
from contracts.services import EVENTS, FROM_OUTSIDE, SERVICES, durable_name
from contracts.vocabulary import canonical_json
from shared.errors import Permanent, Transient
from shared.messaging.delivery import OUTAGES, Consumption, _parsed
from shared.messaging.events import parse_event
from testbed import factories

NEW_FIELD = {"added_later": {"nested": [1, None]}}
READERS = [(name, fact) for name, service in SERVICES.items() for fact, _ in service.reads]


def sent_by_newer(kind, **data):
    """Return the subject and the bytes of an event that a newer version of its emitter sends."""
    event = factories.event(kind)
    body = plain(event) | NEW_FIELD
    return event.nats_subject, canonical_json(body | {"data": body["data"] | NEW_FIELD | data})


@pytest.mark.parametrize(("service", "kind"), READERS, ids=lambda each: each if isinstance(each, str) else each.TYPE)
def test_each_reader_takes_an_event_with_fields_that_it_does_not_know(service, kind):
    assert service in SERVICES
    subject, body = sent_by_newer(kind)
    assert parse_event(kind, subject, body) == factories.event(kind)


def test_a_code_that_a_newer_service_sends_waits_for_a_newer_reader():
    subject, body = sent_by_newer(VariantFailed, code="a_code_of_a_later_time")
    with pytest.raises(Transient, match=r"data\.code 'a_code_of_a_later_time'") as caught:
        parse_event(VariantFailed, subject, body)
    assert caught.value.code in OUTAGES, "it waits as long as an outage may take"


def test_so_does_a_policy_with_a_rule_that_this_version_does_not_know():
    subject, body = factories.event(ReleaseOpened).nats_subject, plain(factories.event(ReleaseOpened))
    body["data"]["policy"] |= {"rule_of_a_later_time": 1}
    with pytest.raises(Transient, match=r"the field data\.policy\.rule_of_a_later_time"):
        parse_event(ReleaseOpened, subject, canonical_json(body))


def test_what_is_wrong_in_every_version_is_refused_at_once():
    subject, body = sent_by_newer(VariantFailed, code="a_code_of_a_later_time", reason=7)
    with pytest.raises(Permanent) as caught:
        parse_event(VariantFailed, subject, body)
    assert caught.value.code == "malformed_event"
    merged = factories.event(CheckpointMerged)
    with pytest.raises(Permanent):
        parse_event(CheckpointMerged, merged.nats_subject, canonical_json(plain(merged) | {"data": {}}))


@pytest.mark.parametrize(
    "change", [{"datacontenttype": False}, {"datacontenttype": "text/plain"}, {"specversion": "2.0"}]
)
def test_an_envelope_that_this_version_does_not_know_is_refused_at_once(change):
    event = factories.event(VariantFailed)
    with pytest.raises(Permanent):
        parse_event(VariantFailed, event.nats_subject, canonical_json(plain(event) | change))


def test_no_version_has_a_code_that_is_no_text():
    subject, body = sent_by_newer(VariantFailed, code=False)
    with pytest.raises(Permanent):
        parse_event(VariantFailed, subject, body)


@pytest.mark.parametrize("kind", FROM_OUTSIDE, ids=lambda kind: kind.__name__)
def test_what_comes_from_outside_waits_for_nothing(kind):
    """A publisher that sends an unknown value is told at once, and fills no stream with what is tried again."""
    event = factories.event(kind)
    body = plain(event) | {"environment": "a_later_one"}
    with pytest.raises(Permanent):
        parse_event(kind, nats_subject(kind.TYPE, event.subject, event.sender), canonical_json(body))


def test_one_that_waited_for_too_long_becomes_a_dead_letter_without_its_event():
    class Message:
        subject, data = sent_by_newer(VariantFailed, code="a_code_of_a_later_time")

    durable = durable_name("registry", VariantFailed)
    assert _parsed(Message(), Consumption(VariantFailed, EVENTS, durable, None)) is None


def test_every_fact_and_reader_is_among_them():
    assert {kind for _, kind in READERS} >= {VariantRequested, CheckpointReady, CheckpointMerged}
    assert len(READERS) > 40
    assert {kind.TYPE for _, kind in READERS} <= set(FACTS)
    assert Event.model_config["extra"] == "ignore"
