"""Events about changes that cause no other event: keys, dead letters, removed objects."""

import uuid
from pathlib import Path
from typing import Any

import nats.errors
from nats.js import JetStreamContext

from clients.cli.connection import ask_bus, find_stack, sender_of
from clients.cli.output import CommandError, warn
from contracts.envelope import ID_NAMESPACE, Event, source_of
from contracts.facts import AuditRecorded
from shared.errors import SlipwayError
from shared.messaging.publishing import publish_event
from shared.runtime.clock import SystemClock

ALL_MODELS = "all-models"
"""The model in events about no model."""


async def state_change(js: JetStreamContext, sender: str, action: str, about: str, details: dict[str, Any]) -> None:
    """Publish a change by this command for the audit log.

    Args:
        js: The bus.
        sender: The identity of this command.
        action: Name of the change, such as `key.add`.
        about: The changed identity, team or message.
        details: Further facts without secrets.

    Raises:
        Transient: The bus does not store the event.
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
    try:
        stack = find_stack(state)
        ask_bus(stack, lambda js: state_change(js, sender_of(stack), action, about, details))
    except (CommandError, SlipwayError, OSError, ValueError, nats.errors.Error) as error:
        warn(f"{action} {about} is not in the audit log, because the bus did not take it ({error})")
