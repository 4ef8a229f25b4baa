"""Orders that the registry stores or removes a record: a policy, a key of the API, a mirror, an attachment."""

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
    """Return the bucket of a kind of records, to read it: the registry alone writes there."""
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
    """Order the registry to store a record in place of the current one, or to remove it, while the order is valid.

    Raises:
        CommandError: The registry refused it, for example because another command changed it, or did not answer.
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
    """Return a key revoked now."""
    return key.model_copy(update={"revoked_at": SystemClock().now()})
