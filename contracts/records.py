"""Records with an outbox, and keys of records."""

from __future__ import annotations

from typing import Any

from .envelope import derived_id
from .facts import Fact
from .vocabulary import ENVIRONMENTS, Contract, Environment, Instant, ModelName, StoredRecord


class OutboxEntry(Contract):
    """A decided fact that may be unpublished.

    Attributes:
        id: Id of the event, derived from the cause: repeated decisions have the same id.
        key: Distinguishes facts of the same type and cause.
        data: The fact as JSON.
        cause_id: Id of the causing event; None if only time caused it.
        decided_at: Time of the decision; the log is searched from then on.
    """

    id: str
    key: str
    type: str
    data: dict[str, Any]
    model: ModelName
    environment: Environment
    correlation_id: str
    cause_id: str | None
    decided_at: Instant


class OutboxRecord(StoredRecord):
    """A record with an outbox: facts are stored with the record, then published and removed."""

    outbox: tuple[OutboxEntry, ...] = ()


def outbox_entry(
    fact: Fact,
    *,
    model: str,
    cause_id: str | None,
    correlation_id: str,
    decided_at: Instant,
    key: str = "",
    environment: Environment = "production",
    id: str | None = None,  # noqa: A002 - the envelope's own name for it
) -> OutboxEntry:
    """Return a fact as an entry of an outbox.

    Args:
        fact: The fact.
        model: Subject of the event.
        cause_id: Id of the causing event; None requires `id`.
        correlation_id: Id of the release, alert or order.
        decided_at: Time of the decision.
        key: Distinguishes facts of the same type and cause.
        environment: Environment of the event.
        id: Id of the event if it is not derived from the cause.

    Raises:
        ValueError: Both `cause_id` and `id` are None.
    """
    if id is None and cause_id is None:
        raise ValueError(f"{fact.TYPE} needs a cause or an id")
    return OutboxEntry(
        id=id if id is not None else derived_id(str(cause_id), fact.TYPE, key),
        key=key,
        type=fact.TYPE,
        data=fact.model_dump(mode="json", by_alias=True),
        model=model,
        environment=environment,
        correlation_id=correlation_id,
        cause_id=cause_id,
        decided_at=decided_at,
    )


def record_key(environment: Environment, model: str) -> str:
    """Return the key of a record per model and environment."""
    return f"{environment}.{model}"


def parse_record_key(key: str) -> tuple[Environment, str] | None:
    """Return environment and model of a record's key; None if it has another form."""
    prefix, _, model = key.partition(".")
    environment = next((environment for environment in ENVIRONMENTS if environment == prefix), None)
    return (environment, model) if environment and model else None
