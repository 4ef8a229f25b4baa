"""The audit log: entries chained by digests, in segments signed by the registry."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field

from ..vocabulary import Contract, Digest, Instant, StoredRecord, digest_of

EntryKind = Literal["order", "announcement", "change", "result", "missing"]
GENESIS: Final = digest_of(b"slipway audit")
"""`previous` of the first entry."""
PREFIX: Final = "audit/"
"""Prefix of segments in the store: `audit/000001.jsonl`."""


class AuditItem(Contract):
    """An audited message, before its position in the log is known.

    Attributes:
        at: Time at which the bus stored the message.
        source: Stream and sequence of the message: `SLIPWAY_ORDERS/12`.
        kind: `order` or `announcement`: a request. `change`: a change that a program reports. `result`: the result of a
            request. `missing`: messages that were removed before they were read.
        action: Type of the event, or name of the change.
        who: Identity that published the message, as bound to the subject by the bus; empty if unknown.
        about: Id of the request, or the changed object.
        digest: Digest of an unreadable message.
        code: Error code of a refusal or failure.
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
    """An item with its position in the log; its digest is that of its canonical JSON."""

    index: Annotated[int, Field(ge=1)]
    previous: Digest


class AuditTail(StoredRecord):
    """The unsealed entries and the position in each source: the record `tail` in the bucket `audit`.

    Attributes:
        segment: Number of the next segment.
        entries: Entries of the next segment so far.
        sealing: Number of entries that are being sealed; 0 for none.
        count: Index of the last entry.
        head: Digest of the last entry.
        anchor: Digest of the envelope that signs the previous segment; None before the first.
        cursors: Sequence of the last message read, by source.
        signature: Envelope with the registry's signature of the head and this record.
    """

    segment: Annotated[int, Field(ge=1)] = 1
    entries: tuple[AuditEntry, ...] = ()
    sealing: Annotated[int, Field(ge=0)] = 0
    count: Annotated[int, Field(ge=0)] = 0
    head: Digest = GENESIS
    anchor: Digest | None = None
    cursors: dict[str, int] = Field(default_factory=dict)
    signature: str | None = None
