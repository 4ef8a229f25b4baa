"""Hostile events: each is read or refused with a code."""

import random

from contracts.envelope import plain
from contracts.facts import FACTS
from contracts.vocabulary import canonical_json
from shared.errors import Permanent, Transient
from shared.messaging.events import parse_event
from testbed import factories
from tests.kit.mutation import attack, code_of, hostile_json

KINDS = tuple(FACTS.values())
EVENTS = {kind: factories.event(kind) for kind in KINDS}
DRAWERS = {kind: hostile_json([plain(event)]) for kind, event in EVENTS.items()}


def draw_event(draw: random.Random) -> bytes:
    """Return an event near one of all kinds; the first byte says which."""
    number = draw.randrange(len(KINDS))
    return bytes([number]) + DRAWERS[KINDS[number]](draw)


def take(data: bytes) -> str:
    kind = KINDS[data[0]]
    try:
        event = parse_event(kind, EVENTS[kind].nats_subject, data[1:])
    except (Permanent, Transient) as error:
        return code_of(error)
    assert canonical_json(plain(event))
    return "read"


def test_hostile_events_are_read_or_refused_with_a_code():
    outcome = attack(draw_event, take, inputs=2_000)
    assert outcome.counts["read"] > 20
    assert outcome.counts["malformed_event"] > 500
    assert set(outcome.counts) <= {
        *("read", "malformed_event", "subject_mismatch", "invalid_model_name", "policy_invalid"),
        *("unknown_event_version", "too_large", "sender_mismatch"),
    }
