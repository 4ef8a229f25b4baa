"""Rollbacks that an administrator orders at gateways, while the bus cannot be reached."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field, StringConstraints

from .codes import Code
from .stored import Migration, StoredRecord, unchanged
from .vocabulary import Contract, Digest, Instant, ModelName, Target, digest_of_json

KIND: Final = "slipway.gateway-rollback.v1"
VALID: Final = timedelta(minutes=10)
"""How long an order is valid, from its own time."""
PATH: Final = "/admin/rollback"
"""Where gateways take orders."""

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
PublicKey = Annotated[str, StringConstraints(pattern=r"^U[A-Z2-7]{55}$")]
OrderId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]


class GatewayRollback(Contract):
    """What an administrator orders; the signature is over these fields as canonical JSON.

    Attributes:
        order_id: Drawn at random; an order that comes again changes nothing.
        administrator: Whose key signs it.
        failed: The target that is to go; None asks for the active one, with `plan_only` only.
        epoch: The epoch of the route that it is for, at each gateway; None asks for it, with `plan_only` only.
        read_only_bus: The administrator has seen that the bus answers, and stores nothing: its disk is full.
        plan_only: The gateway answers what it serves and what the order would change, and changes nothing.
    """

    kind: Literal["slipway.gateway-rollback.v1"] = KIND
    order_id: OrderId
    administrator: Name
    model: ModelName
    failed: Target | None = None
    epoch: Annotated[int, Field(ge=0)] | None = None
    reason: Annotated[str, Field(min_length=1, max_length=1000)]
    issued_at: Instant
    expires_at: Instant
    read_only_bus: bool = False
    plan_only: bool = False


class SignedGatewayRollback(Contract):
    """An order with its signature.

    Attributes:
        payload: The order as canonical JSON, exactly as it was signed.
        public_key: The key that signed it (nkeys, Ed25519).
        signature: 64 bytes in base64.
    """

    payload: Annotated[str, Field(min_length=2, max_length=8192)]
    public_key: PublicKey
    signature: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]{86}==$")]

    @property
    def digest(self) -> Digest:
        """Return the digest of payload and key: no other text and no other key has it."""
        return digest_of_json({"payload": self.payload, "public_key": self.public_key})


class Administrator(Contract):
    """An identity that may order rollbacks at gateways, with the keys that are accepted now."""

    name: Name
    public_keys: Annotated[tuple[PublicKey, ...], Field(min_length=1)]


class PerformedRollback(StoredRecord):
    """A rollback that a gateway performed, as its own file keeps it until the bus has it and after.

    Attributes:
        outcome: What the rollback-controller answered; `waiting` before.
    """

    SCHEMA_VERSION: ClassVar[int] = 5
    MIGRATIONS: ClassVar[Mapping[int, Migration]] = dict.fromkeys(range(1, 5), unchanged)

    order: SignedGatewayRollback
    performed_at: Instant
    outcome: Literal["waiting", "applied", "refused"] = "waiting"
    code: Code | None = None
    reason: str = ""


class RollbackAnswer(StoredRecord):
    """What the rollback-controller made of a rollback at gateways (bucket `rollback-answers`).

    Attributes:
        order_digest: Digest of the signed order; its hexadecimal part is the record's key. A gateway takes no
            answer about an order with another payload or key: a report can contain any.
    """

    SCHEMA_VERSION: ClassVar[int] = 4
    MIGRATIONS: ClassVar[Mapping[int, Migration]] = dict.fromkeys(range(1, 4), unchanged)

    order_id: OrderId
    order_digest: Digest
    model: ModelName
    outcome: Literal["applied", "refused"]
    code: Code | None = None
    reason: str = ""
    answered_at: Instant
