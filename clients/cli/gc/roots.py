"""The roots of a sweep: digests in records and events, except in records of ended releases."""

import json
from datetime import datetime
from typing import Any, Final

from nats.js import JetStreamContext
from nats.js.api import DeliverPolicy

from clients.cli.connection import StackAddress, connected
from clients.cli.gc.references import names_in
from clients.cli.reading import read_messages
from contracts.facts import CheckpointReady
from contracts.services import EVENTS, INBOX, durable_name
from decisions.access.bus_permissions import BUCKETS

HOLDING: Final = (
    "checkpoint",
    "deployment",
    "rehearsal",
    "release",
    "stage",
    "traffic",
    "variant",
    "version",
    "work",
)
"""Kinds of events that name objects of releases; objects named in other events only may be removed."""
SUBJECTS: Final = tuple(f"{prefix}.{kind}.>" for prefix in ("slipway", "slipway.staging") for kind in HOLDING)
"""Subjects of these events, in production and in staging."""
_RELEASES, _HISTORY = "releases", ("audit",)


async def names_on_bus(stack: StackAddress, since: datetime) -> set[str]:
    """Return the digests that records, waiting announcements and events since a time name.

    Raises:
        Transient: `bus_unavailable`.
    """
    names: set[str] = set()
    async with connected(stack) as client:
        js = client.jetstream(timeout=30)
        for bucket in BUCKETS:
            if bucket not in _HISTORY:
                for message in await _last(js, bucket):
                    if bucket != _RELEASES or not has_ended(message):
                        names |= names_in(message)
        for subject in SUBJECTS:
            names |= await _named(js, EVENTS, subject, deliver_policy=DeliverPolicy.BY_START_TIME, opt_start_time=since)
        names |= await _named(js, INBOX, ">", deliver_policy=DeliverPolicy.BY_START_TIME, opt_start_time=since)
        info = await js.consumer_info(INBOX, durable_name("registry", CheckpointReady))
        after = (info.ack_floor.stream_seq or 0) if info.ack_floor is not None else 0
        first = {"deliver_policy": DeliverPolicy.BY_START_SEQUENCE, "opt_start_seq": after + 1}
        names |= await _named(js, INBOX, ">", **first)
    return names


def has_ended(record: bytes) -> bool:
    """Return whether a record is of an ended release without unpublished events."""
    try:
        fields = json.loads(record)
    except ValueError:
        return False
    return isinstance(fields, dict) and bool(fields.get("finished")) and not fields.get("outbox")


async def _last(js: JetStreamContext, bucket: str) -> list[bytes]:
    policy = DeliverPolicy.LAST_PER_SUBJECT
    messages = await read_messages(js, f"KV_{bucket}", f"$KV.{bucket}.>", deliver_policy=policy)
    return [message.data for message in messages]


async def _named(js: JetStreamContext, stream: str, subject: str, **first: Any) -> set[str]:
    return {name for message in await read_messages(js, stream, subject, **first) for name in names_in(message.data)}
