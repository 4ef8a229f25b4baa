"""Publishes changes by commands that cause no other event: keys, dead letters, removed objects."""

import asyncio
import uuid
from pathlib import Path
from typing import Any

import nats.errors
from nats.js import JetStreamContext

from clients.cli.connection import find_stack, on_bus, sender_of
from clients.cli.output import CommandError, warn
from contracts.envelope import ID_NAMESPACE, Event, source_of
from contracts.facts import AuditRecorded
from shared.errors import SlipwayError
from shared.messaging.publishing import publish_event
from shared.runtime.clock import SystemClock

ALL_MODELS = "all-models"
"""The model of an event about none."""


async def state_change(js: JetStreamContext, sender: str, action: str, about: str, details: dict[str, Any]) -> None:
    """Publish, with the credential of this command, that it changes something.

    Args:
        js: The bus.
        sender: The identity whose key this command uses.
        action: What, such as `key.add`.
        about: To what: an identity, a team, a message.
        details: What else matters; no secrets.

    Raises:
        Transient: The bus does not take it.
    """
    now = SystemClock().now()
    fact = AuditRecorded(action=action, about=about[:200], occurred_at=now, details=details)
    event_id = str(uuid.uuid5(ID_NAMESPACE, fact.model_dump_json()))
    event = Event[Any](
        id=event_id,
        source=source_of(sender),
        type=fact.TYPE,
        subject=ALL_MODELS,
        time=now,
        correlationid=event_id,
        data=fact,
    )
    await publish_event(js, event)


def key_change(state: Path, action: str, about: str, details: dict[str, Any]) -> None:
    """Publish a change of the keys of the stack in a state folder; warn if its bus does not take it."""

    async def publish() -> None:
        stack = find_stack(state)
        async with on_bus(stack) as js:
            await state_change(js, sender_of(stack), action, about, details)

    try:
        asyncio.run(publish())
    except (CommandError, SlipwayError, OSError, ValueError, nats.errors.Error) as error:
        warn(f"{action} {about} is not in the audit log, because the bus did not take it ({error})")
