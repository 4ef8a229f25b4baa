"""The audit log: entries chained by the digest of the previous entry, in segments that the registry signs."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field

from ..vocabulary import Contract, Digest, Instant, StoredRecord, digest_of

EntryKind = Literal["order", "announcement", "change", "result", "missing"]
GENESIS: Final = digest_of(b"slipway audit")
"""What the first entry names as the one before."""
PREFIX: Final = "audit/"
"""Where segments are in the store: `audit/000001.jsonl`."""


class AuditItem(Contract):
    """Something that happened, before it has its place in the log.

    Attributes:
        at: When the bus stored it.
        source: The message: `SLIPWAY_ORDERS/12`. One message is one entry.
        kind: `order` and `announcement`: what people and programs asked for. `change`: what a program states to have
            changed. `result`: what came of an order or announcement. `missing`: messages that were gone before they
            were read.
        action: The event's type, or what was changed.
        who: The identity whose credential published it, as the bus binds it to the subject; empty if the message does
            not name one.
        about: Id of the order or announcement, or what was changed.
        digest: Digest of a message that cannot be read.
        code: Why an order was refused.
    """

    at: Instant
    source: str
    kind: EntryKind
    action: str
    who: str = ""
    model: str = ""
    about: str = ""
    result: str = ""
    code: str = ""
    reason: str = ""
    digest: Digest | None = None
    details: dict[str, Any] = {}


class AuditEntry(AuditItem):
    """An item with its index in the log; its digest is computed over its canonical JSON."""

    index: Annotated[int, Field(ge=1)]
    previous: Digest


class AuditTail(StoredRecord):
    """The entries that are in no segment yet, and the position in each source: the record `tail` in the bucket `audit`.

    Attributes:
        segment: Number of the segment that comes next.
        entries: Its entries so far.
        sealing: How many of them are being written as this segment; 0 for none.
        count: Index of the last entry.
        head: Digest of the last entry.
        anchor: Digest of the envelope that signs the segment before; None before the first.
        cursors: The last message that was read, by source.
        signature: The envelope by which the registry signs the head and this record.
    """

    segment: Annotated[int, Field(ge=1)] = 1
    entries: tuple[AuditEntry, ...] = ()
    sealing: Annotated[int, Field(ge=0)] = 0
    count: Annotated[int, Field(ge=0)] = 0
    head: Digest = GENESIS
    anchor: Digest | None = None
    cursors: dict[str, int] = Field(default_factory=dict)
    signature: str | None = None
