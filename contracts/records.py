"""Versioned records of services in their buckets, with the facts that each has yet to publish."""

from __future__ import annotations

from typing import Any

from .envelope import derived_id
from .facts import Fact
from .vocabulary import ENVIRONMENTS, Contract, Environment, Instant, ModelName, StoredRecord


class OutboxEntry(Contract):
    """A fact that a record has decided and that may not be published yet.

    Attributes:
        id: Id of the event. It follows from the cause, so that the same decision always names the same fact.
        key: Distinguishes it from other facts of its type with the same cause.
        data: The fact as JSON.
        cause_id: The event that led to it; None if time alone did.
        decided_at: When it was decided: the log is searched from then on.
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
    """A record with an outbox: facts are written with the record, published afterwards, then removed."""

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
        model: The model that it is about.
        cause_id: The event that led to it; None only together with an `id`.
        correlation_id: The release, alert or order that it belongs to.
        decided_at: The time of the decision.
        key: Distinguishes several facts of one type that follow from the same cause.
        environment: Where it is published.
        id: Id of the event, where it does not follow from the cause.

    Raises:
        ValueError: There is neither a cause nor an id.
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
    """Return the key of a record that there is for each model and environment."""
    return f"{environment}.{model}"


def parse_record_key(key: str) -> tuple[Environment, str] | None:
    """Return the environment and the model that a record's key names; None if it does not."""
    prefix, _, model = key.partition(".")
    environment = next((environment for environment in ENVIRONMENTS if environment == prefix), None)
    return (environment, model) if environment and model else None
