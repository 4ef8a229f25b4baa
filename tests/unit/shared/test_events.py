"""Whatever arrives on a subject becomes an event or a Permanent error with a code; nothing else ever happens."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clients.cli.events.dead_letters import DeadLetter, repeated
from contracts.envelope import nats_subject, plain, source_of
from contracts.facts import FACTS, CheckpointReady, RollbackOrdered, VariantRequested
from contracts.identities import PROVISIONER
from contracts.services import FROM_OUTSIDE, SERVICES, emitters
from contracts.vocabulary import canonical_json
from shared.errors import Permanent
from shared.messaging.events import model_in, parse_event
from testbed import factories

READY = factories.event(CheckpointReady)
SUBJECT, GOOD = READY.nats_subject, plain(READY)
CODES = {
    "malformed_event",
    "unknown_event_version",
    "invalid_model_name",
    "subject_mismatch",
    "sender_mismatch",
    "policy_invalid",
    "too_large",
}


def refused(body, subject=SUBJECT, fact=CheckpointReady):
    with pytest.raises(Permanent) as caught:
        parse_event(fact, subject, body)
    check(caught.value)
    return caught.value


def check(error):
    """An answer names a code, is a sentence, and fits into headers and facts."""
    assert error.code in CODES
    assert len(error.reason) < 8_000
    canonical_json({"reason": error.reason, "details": error.details})


def sent(**changes):
    return canonical_json(GOOD | changes)


def with_data(**changes):
    return canonical_json(GOOD | {"data": GOOD["data"] | changes})


def parse_or_refuse(fact, subject, body):
    try:
        event = parse_event(fact, subject, body)
    except Permanent as error:
        check(error)
        return
    assert canonical_json(plain(event)), "what was accepted can be published again"
    assert event.nats_subject == subject


@pytest.mark.parametrize("kind", FACTS.values(), ids=lambda kind: kind.__name__)
def test_every_fact_parses_on_its_own_subject_only(kind):
    event = factories.event(kind)
    assert parse_event(kind, event.nats_subject, canonical_json(plain(event))) == event
    assert (
        refused(canonical_json(plain(event)), nats_subject(kind.TYPE, "other-bot", event.sender), kind).code
        == "subject_mismatch"
    )


def test_staging_and_production_do_not_mix():
    staged = factories.event(VariantRequested, environment="staging")
    body = canonical_json(plain(staged))
    assert parse_event(VariantRequested, staged.nats_subject, body) == staged
    assert (
        refused(body, nats_subject(VariantRequested.TYPE, "support-bot", "registry"), VariantRequested).code
        == "subject_mismatch"
    )


@pytest.mark.parametrize(
    ("code", "body"),
    [
        ("malformed_event", b""),
        ("malformed_event", b"{"),
        ("malformed_event", b"null"),
        ("malformed_event", b"[]"),
        ("malformed_event", b'"text"'),
        ("malformed_event", b"\xff\xfe\x00"),
        ("malformed_event", b"[" * 40_000),
        ("malformed_event", b'{"a":' * 40_000),
        ("malformed_event", b"9" * 10_000),
        ("malformed_event", sent(type=None)),
        ("malformed_event", sent(data=None)),
        ("malformed_event", sent(id="")),
        ("malformed_event", sent(time="yesterday")),
        ("malformed_event", sent(subject=["support-bot"])),
        ("malformed_event", with_data(variants=["int3"])),
        ("malformed_event", with_data(weights={"kind": "lora"})),
        ("malformed_event", with_data(policy={"triggers": []}, attempt=0)),
        ("unknown_event_version", sent(type="slipway.checkpoint.ready.v2")),
        ("subject_mismatch", sent(type="slipway.alert.raised.v1")),
        ("subject_mismatch", sent(type=7)),
        ("subject_mismatch", sent(subject="other-bot")),
        ("subject_mismatch", with_data(model="other-bot")),
        ("invalid_model_name", sent(subject="Support Bot")),
        ("invalid_model_name", sent(subject="support-bot\n")),
        ("invalid_model_name", with_data(model="../etc")),
        ("invalid_model_name", with_data(model="a" * 300)),
        ("policy_invalid", with_data(policy={"triggers": []})),
        ("policy_invalid", with_data(policy="strict")),
        ("policy_invalid", with_data(policy=GOOD["data"]["policy"] | {"gatse": []})),
    ],
    ids=lambda value: value[:40] if isinstance(value, bytes) else value,
)
def test_each_way_of_being_wrong_has_its_code(code, body):
    assert refused(body).code == code


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
def test_numbers_that_are_not_json_are_refused_at_admission(number):
    """They would pass where any value is allowed, and then the fact that follows could not be published."""
    body = with_data(training=GOOD["data"]["training"] | {"hyperparameters": {"clip": "HERE"}})
    assert refused(body.replace(b'"HERE"', number)).code == "malformed_event"


@pytest.mark.parametrize("where", ["hyperparameters", "id"])
def test_lone_surrogates_are_refused_at_admission(where):
    body = with_data(training=GOOD["data"]["training"] | {"hyperparameters": {"note": "HERE"}})
    body = body if where == "hyperparameters" else sent(id="HERE")
    assert refused(body.replace(b"HERE", rb"\ud800")).code == "malformed_event"


def test_an_answer_stays_small_however_much_was_sent():
    huge = "y" * 200_000
    error = refused(with_data(policy=GOOD["data"]["policy"] | {huge: 1}))
    assert error.code == "policy_invalid"
    assert len(json.dumps(error.details)) < 10_000


@given(st.binary(max_size=200))
@example(b"\xef\xbb\xbf{}")
@example(b"\x00{\x00}")
def test_arbitrary_bytes_are_refused(body):
    refused(body)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(alphabet=st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted(GOOD)), anything, min_size=1, max_size=3))
def test_arbitrary_attributes_are_parsed_or_refused(changes):
    parse_or_refuse(CheckpointReady, SUBJECT, json.dumps(GOOD | changes).encode())


@given(st.dictionaries(st.sampled_from(sorted(GOOD["data"])), anything, min_size=1, max_size=2), st.text(max_size=12))
def test_arbitrary_data_on_arbitrary_subjects_is_parsed_or_refused(changes, tail):
    body = json.dumps(GOOD | {"data": GOOD["data"] | changes}).encode()
    parse_or_refuse(CheckpointReady, SUBJECT, body)
    parse_or_refuse(CheckpointReady, f"{CheckpointReady.TYPE}.{tail}", body)
    parse_or_refuse(CheckpointReady, f"{CheckpointReady.TYPE}.support-bot.{tail}", body)


@given(st.text(max_size=40))
@example("slipway.checkpoint.ready.v1.a.b\n")
@example("slipway.staging.alert.raised.v1.x.y")
def test_a_model_is_read_from_a_subject_only_if_it_is_a_valid_name(text):
    for subject in (text, f"slipway.checkpoint.ready.v1.{text}"):
        model = model_in(subject)
        if model is not None:
            assert subject.split(".")[-2] == model
            on = nats_subject(VariantRequested.TYPE, model, "registry")
            assert parse_event(VariantRequested, on, renamed(model)).subject == model


def renamed(model):
    return canonical_json(plain(factories.event(VariantRequested)) | {"subject": model})


@pytest.mark.parametrize(
    ("subject", "model"),
    [
        ("slipway.checkpoint.ready.v1.support-bot.paula", "support-bot"),
        ("slipway.checkpoint.ready.v1.support-bot", None),
        ("slipway.staging.alert.raised.v12.a.monitor", "a"),
        ("slipway.checkpoint.ready.v1.a.b.c", None),
        ("slipway.checkpoint.ready.v1", None),
        ("slipway.checkpoint.ready.v1.", None),
        ("slipway.checkpoint.ready.v1.UP.paula", None),
        ("other.checkpoint.ready.v1.a.b", None),
    ],
)
def test_models_in_subjects(subject, model):
    assert model_in(subject) == model


# -- senders ----------------------------------------------------------------------------------------------------------


SENDERS = (*SERVICES, PROVISIONER, "oscar", "adam")


@pytest.mark.parametrize("kind", FACTS.values(), ids=lambda kind: kind.__name__)
def test_a_fact_is_accepted_from_those_who_declare_it_only(kind):
    """What each may publish at all is the bus's part (test_bus_permissions)."""
    for sender in SENDERS:
        event = factories.event(kind, source=source_of(sender))
        body = canonical_json(plain(event))
        is_user = sender not in (*SERVICES, PROVISIONER)
        if (kind in FROM_OUTSIDE and is_user) or sender in emitters(kind):
            assert parse_event(kind, event.nats_subject, body).sender == sender
        else:
            assert refused(body, event.nats_subject, kind).code == "sender_mismatch"
        for other in set(SENDERS) - {sender}:  # its own key, another's name in the envelope
            on = nats_subject(event.type, event.subject, other)
            assert refused(body, on, kind).code == "sender_mismatch"


@pytest.mark.parametrize("kind", FACTS.values(), ids=lambda kind: kind.__name__)
def test_a_requeued_event_is_its_administrators(kind):
    """Only administrators may publish what services emit, so a user under a service's fact is one."""
    source = source_of("adam") if kind in FROM_OUTSIDE else source_of(next(iter(emitters(kind))))
    event = factories.event(kind, requeuedby="adam", source=source)
    body = canonical_json(plain(event))
    assert event.nats_subject == nats_subject(kind.TYPE, "support-bot", "adam")
    assert parse_event(kind, event.nats_subject, body).sender == "adam"
    for sender in set(SENDERS) - {"adam"}:
        assert refused(body, nats_subject(kind.TYPE, "support-bot", sender), kind).code == "sender_mismatch"
    for service in SERVICES:  # no service repeats the event of another, or its own
        theirs = factories.event(kind, requeuedby=service)
        if kind in FROM_OUTSIDE or service not in emitters(kind):
            assert refused(canonical_json(plain(theirs)), theirs.nats_subject, kind).code == "sender_mismatch"


@pytest.mark.parametrize("kind", FROM_OUTSIDE, ids=lambda kind: kind.__name__)
def test_a_user_names_no_other_user_as_the_source_of_what_comes_from_outside(kind):
    """Publishers and operators can write `requeuedby`, too: it makes them no administrator."""
    forged = factories.event(kind, requeuedby="paula", source=source_of("oscar"))
    assert refused(canonical_json(plain(forged)), forged.nats_subject, kind).code == "sender_mismatch"


@pytest.mark.parametrize("kind", FACTS.values(), ids=lambda kind: kind.__name__)
def test_a_dead_letter_is_accepted_again_as_its_administrators(kind):
    source = source_of("oscar" if kind in FROM_OUTSIDE else next(iter(emitters(kind))))
    first = factories.event(kind, source=source)
    letter = DeadLetter(1, "registry", first.nats_subject, "", "", "", 1, 1, "", {}, canonical_json(plain(first)))
    event = parse_event(kind, *repeated(letter, "adam"))
    assert (event.sender, event.id, event.data) == ("adam", first.id, first.data)
    assert event.source == (source_of("adam") if kind in FROM_OUTSIDE else source)


@pytest.mark.parametrize(
    "source",
    ["/slipway/", "/slipway/a/b", "/slipway/A", "slipway/oscar", "/ops/oscar", "/slipway/oscar\n", "oscar", "/"],
)
def test_a_source_that_names_no_identity_is_refused(source):
    event = factories.event(RollbackOrdered, source=source)
    assert event.sender == ""
    on = nats_subject(RollbackOrdered.TYPE, "support-bot", "oscar")
    assert refused(canonical_json(plain(event)), on, RollbackOrdered).code == "sender_mismatch"
