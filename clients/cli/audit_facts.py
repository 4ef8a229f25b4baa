"""Publishes what a command changed that leaves no event of its own: keys, teams, dead letters, removed objects."""

import asyncio
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nats.errors
from nats.js import JetStreamContext

from clients.cli.change_journal import Journal, Noted
from clients.cli.connection import StackAddress, connected, find_stack, sender_of
from clients.cli.output import CommandError, warn
from contracts.envelope import ID_NAMESPACE, Event, source_of
from contracts.facts import AuditRecorded
from shared.errors import SlipwayError
from shared.messaging.publishing import publish_event
from shared.runtime.clock import SystemClock

ALL_MODELS = "all-models"
"""The model of an event about none."""


async def state_change(
    js: JetStreamContext,
    sender: str,
    action: str,
    about: str,
    details: dict[str, Any],
) -> None:
    """Publish, with the credential of this command, that it changes something; before it does.

    Args:
        js: The bus.
        sender: The identity whose key this command uses.
        action: What, such as `gc.swept`.
        about: To what: a message, a bucket.
        details: What else matters; no secrets.

    Raises:
        Transient: The bus does not take it: the change is not made.
    """
    now = SystemClock().now()
    fact = AuditRecorded(action=action, about=about, occurred_at=now, details=details)
    await publish_event(js, change_event(sender, fact))


def change_event(sender: str, fact: AuditRecorded) -> Event[Any]:
    """Return the event of a change."""
    event_id = str(uuid.uuid5(ID_NAMESPACE, fact.model_dump_json()))
    return Event[Any](
        id=event_id,
        source=source_of(sender),
        type=fact.TYPE,
        subject=ALL_MODELS,
        time=SystemClock().now(),
        correlationid=event_id,
        data=fact,
    )


def publish_journal(folder: Path, state: Path) -> None:
    """Publish the changes of a folder of keys that the bus does not know yet; what it does not take waits.

    Args:
        folder: The folder of keys.
        state: The state folder of the stack whose keys they are.
    """
    journal, waiting = Journal(folder), 0
    try:
        noted = journal.waiting()
        waiting = len(noted)
        if noted:
            asyncio.run(_publish(find_stack(state), journal, noted))
    except (CommandError, SlipwayError, OSError, TimeoutError, nats.errors.Error) as error:
        what = f"{waiting} changes of keys wait" if waiting else f"the changes in {journal.path} wait"
        warn(f"{what} for the audit log, until a command reaches the bus ({error})")


async def _publish(stack: StackAddress, journal: Journal, noted: Sequence[Noted]) -> None:
    async with connected(stack) as client:
        for each in noted:
            await publish_event(client.jetstream(timeout=10), change_event(sender_of(stack), each.fact))
            journal.published(each)
