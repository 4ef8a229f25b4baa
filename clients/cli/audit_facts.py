"""Publishes what a command changed that leaves no event of its own: keys, policies, dead letters."""

import asyncio
import json
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nats.errors
from nats.js import JetStreamContext
from pydantic import BaseModel

from clients.cli.connection import StackAddress, connected, find_stack, sender_of
from clients.cli.output import CommandError, warn
from contracts.envelope import ID_NAMESPACE, Event, source_of
from contracts.facts import AuditRecorded
from contracts.vocabulary import digest_of
from shared.errors import SlipwayError
from shared.messaging.publishing import publish_event
from shared.runtime.clock import SystemClock
from shared.storage.record_format import dump

ALL_MODELS = "all-models"
"""The model of an event about none."""


async def state_change(
    js: JetStreamContext,
    sender: str,
    action: str,
    about: str,
    *,
    record: BaseModel | None = None,
    model: str = ALL_MODELS,
    details: dict[str, Any] | None = None,
) -> None:
    """Publish, with the credential of this command, that it changes something; before it does.

    Args:
        js: The bus.
        sender: The identity whose key this command uses.
        action: What, such as `policy.set`.
        about: To what: a model, an identity, the id of an API key.
        record: The record that is written; its digest names the revision.
        model: The model that it is about.
        details: What else matters; no secrets.

    Raises:
        Transient: The bus does not take it: the change is not made.
    """
    now = SystemClock().now()
    digest = digest_of(dump(record)) if record is not None else None
    fact = AuditRecorded(action=action, about=about, digest=digest, occurred_at=now, details=details or {})
    await publish_event(js, change_event(sender, fact, model))


def change_event(sender: str, fact: AuditRecorded, model: str = ALL_MODELS) -> Event[Any]:
    """Return the event of a change."""
    event_id = str(uuid.uuid5(ID_NAMESPACE, fact.model_dump_json()))
    return Event[Any](
        id=event_id,
        source=source_of(sender),
        type=fact.TYPE,
        subject=model,
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
    journal = Journal(folder)
    waiting = journal.waiting()
    if not waiting:
        return
    try:
        asyncio.run(_publish(find_stack(state), journal, waiting))
    except (CommandError, SlipwayError, OSError, TimeoutError, nats.errors.Error) as error:
        warn(f"{len(waiting)} changes of keys wait for the audit log, until a command reaches the bus ({error})")


async def _publish(stack: StackAddress, journal: "Journal", waiting: Sequence[AuditRecorded]) -> None:
    async with connected(stack) as client:
        for fact in waiting:
            await publish_event(client.jetstream(timeout=10), change_event(sender_of(stack), fact))
            journal.published(1)


class Journal:
    """Changes of a folder of keys that the bus does not know yet, as JSON lines beside the keys."""

    def __init__(self, folder: Path) -> None:
        """Take the folder of keys."""
        self._path = folder / "changes.jsonl"

    def add(self, action: str, about: str, details: dict[str, Any]) -> None:
        """Note a change that was made."""
        fact = AuditRecorded(action=action, about=about, occurred_at=SystemClock().now(), details=details)
        with self._path.open("a") as lines:
            lines.write(fact.model_dump_json() + "\n")
        self._path.chmod(0o600)

    def waiting(self) -> list[AuditRecorded]:
        """Return the changes that are not published, the oldest first."""
        lines = self._path.read_text().splitlines() if self._path.is_file() else []
        return [AuditRecorded.model_validate(json.loads(line)) for line in lines if line]

    def published(self, count: int) -> None:
        """Remove the oldest changes."""
        rest = self._path.read_text().splitlines(keepends=True)[count:]
        self._path.write_text("".join(rest))
