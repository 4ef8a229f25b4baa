"""Orders to store or remove a record: a policy, an API key, a mirror, an attachment."""

from datetime import timedelta
from typing import Any

from nats.js import JetStreamContext
from pydantic import BaseModel

from clients.cli.audit_facts import ALL_MODELS
from clients.cli.commands.orders import give_order
from clients.cli.connection import StackAddress
from contracts.api_keys import ApiKey
from contracts.facts import RecordOrdered
from contracts.facts.ops import OF_A_MODEL, RECORDS, RecordKind
from contracts.vocabulary import digest_of
from decisions.rollback.orders import ORDER_AGE
from shared.runtime.clock import SystemClock
from shared.storage.kv import Bucket


def bucket_of(js: JetStreamContext, kind: RecordKind) -> Bucket[Any]:
    """Return the bucket of a kind of records, to read: only the registry writes records."""
    return Bucket(js, *RECORDS[kind])


async def order_record(
    js: JetStreamContext,
    stack: StackAddress,
    kind: RecordKind,
    name: str,
    *,
    record: BaseModel | None,
    before: bytes | None,
    valid: timedelta = ORDER_AGE,
) -> None:
    """Order the registry to replace or remove a record.

    Args:
        js: The bus.
        stack: The stack of the order.
        kind: Kind of the record.
        name: Name of the record.
        record: The new record; None removes it.
        before: The present record as stored; the registry refuses the order if it differs. None for no record.
        valid: Validity of the order.

    Raises:
        CommandError: The registry refused the order or did not answer.
    """
    ordered = RecordOrdered(
        kind=kind,
        name=name,
        record=record.model_dump(mode="json") if record is not None else None,
        before=digest_of(before) if before is not None else None,
        expires_at=SystemClock().now() + valid,
    )
    await give_order(js, stack, name if kind in OF_A_MODEL else ALL_MODELS, ordered)


def revoked(key: ApiKey) -> ApiKey:
    """Return an API key with the present time as its revocation."""
    return key.model_copy(update={"revoked_at": SystemClock().now()})
