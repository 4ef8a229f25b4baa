"""Audit entries: created from messages of the bus, chained by digests, and verified."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from contracts.envelope import Event, plain
from contracts.facts import (
    AuditRecorded,
    CheckpointReady,
    CheckpointRejected,
    OrderAccepted,
    OrderRefused,
    ReleaseOpened,
    RollbackCompleted,
    RollbackFailed,
)
from contracts.provenance.audit import AuditEntry, AuditItem, AuditTail
from contracts.services import EVENTS, FROM_OUTSIDE, INBOX, ORDERS
from contracts.vocabulary import Digest, Fact, canonical_json, digest_of

RESULTS: tuple[type[Fact], ...] = (
    OrderAccepted,
    OrderRefused,
    RollbackCompleted,
    RollbackFailed,
    CheckpointRejected,
    ReleaseOpened,
)
"""Facts with the result of an order or announcement."""
LOST = "audit.lost"
"""Action of the entry for a lost record of unsealed entries."""
SEGMENT_ENTRIES = 64
SEGMENT_S = 600.0
"""Number of entries, and age of the first one in seconds, at which a segment is sealed."""
_DETAIL_BYTES = 4096


@dataclass(frozen=True)
class Source:
    """A stream with a subject filter.

    Attributes:
        name: Unique name of the cursor.
        whole: Whether sequence numbers have no gaps.
    """

    name: str
    stream: str
    subject: str
    whole: bool


SOURCES: tuple[Source, ...] = (
    Source("orders", ORDERS, ">", whole=True),
    Source("announcements", INBOX, ">", whole=True),
    *(Source(f"results:{fact.TYPE}", EVENTS, f"{fact.TYPE}.>", whole=False) for fact in RESULTS),
)


def is_audited(fact: type[Fact]) -> bool:
    """Return whether events of a type are entries of the log."""
    return fact in FROM_OUTSIDE or fact in RESULTS


def sender(subject: str, type_: str) -> str:
    """Return the sender in a subject `<type>.<model>.<sender>`; empty if it has another form."""
    tokens = subject.removeprefix(f"{type_}.").split(".")
    return tokens[1] if subject.startswith(f"{type_}.") and len(tokens) == 2 else ""


def item_of(event: Event[Any], subject: str, source: str, at: datetime) -> AuditItem:
    """Return the log entry of an event."""
    data = event.data
    common: dict[str, Any] = {
        "at": at,
        "source": source,
        "action": event.type,
        "who": sender(subject, event.type),
        "model": event.subject,
    }
    if isinstance(data, AuditRecorded):
        stated = {"occurred_at": data.occurred_at.isoformat(), **data.details}
        changed = {"action": data.action, "about": data.about, "details": _short(stated)}
        return AuditItem(kind="change", **{**common, **changed})
    if isinstance(data, RESULTS):
        return AuditItem(kind="result", **common, **_result(event))
    kind = "announcement" if isinstance(data, CheckpointReady) else "order"
    body = plain(event)["data"]
    return AuditItem(kind=kind, about=event.id, reason=body.pop("reason", ""), details=_short(body), **common)


def _result(event: Event[Any]) -> dict[str, Any]:
    data = event.data
    if isinstance(data, OrderAccepted):
        return {"about": data.order_id, "result": "accepted", "details": _short(data.details)}
    if isinstance(data, OrderRefused):
        return {"about": data.order_id, "result": "refused", "code": data.code, "reason": data.reason}
    if isinstance(data, RollbackCompleted):
        return {"about": data.cause_id, "result": "completed", "details": {"mode": data.mode}}
    if isinstance(data, RollbackFailed):
        return {"about": data.cause_id, "result": "failed", "code": data.code, "reason": data.reason}
    if isinstance(data, ReleaseOpened):
        opened = {"release": data.release_id, "version": data.version}
        return {"about": data.source_event_id, "result": "opened", "details": opened}
    return {"about": event.causationid or event.correlationid, "result": "rejected", "code": data.code} | {
        "reason": data.reason
    }


def unreadable_item(body: bytes, subject: str, source: str, at: datetime) -> AuditItem:
    """Return the log entry of a message without a known event type: its sender and digest."""
    type_ = ".".join(subject.split(".")[:4])
    return AuditItem(
        at=at,
        source=source,
        kind="order",
        action=type_,
        who=sender(subject, type_),
        result="unreadable",
        digest=digest_of(body),
    )


def missing_item(source: Source, first: int, last: int, at: datetime) -> AuditItem:
    """Return the log entry for messages that were removed before they were read."""
    reason = f"{last - first + 1} messages were removed from {source.stream} before they were read."
    numbers = f"{source.stream}/{first}-{last}"
    return AuditItem(at=at, source=numbers, kind="missing", action=source.name, reason=reason)


def lost_item(reason: str, at: datetime) -> AuditItem:
    """Return the log entry for a lost record of unsealed entries."""
    return AuditItem(at=at, source="KV_audit/tail", kind="missing", action=LOST, reason=reason)


def cursors_of(entries: Iterable[AuditEntry]) -> dict[str, int]:
    """Return the sequence of the last message of each source among entries."""
    cursors: dict[str, int] = {}
    for entry in entries:
        stream, _, numbers = entry.source.partition("/")
        last = numbers.rpartition("-")[2]
        for source in SOURCES:
            if source.stream == stream and (source.whole or source.subject == f"{entry.action}.>") and last.isdecimal():
                cursors[source.name] = max(cursors.get(source.name, 0), int(last))
    return cursors


def _short(details: Mapping[str, Any]) -> dict[str, Any]:
    """Return details of limited size: longer ones as their digest."""
    data = canonical_json(dict(details))
    return dict(details) if len(data) <= _DETAIL_BYTES else {"digest": digest_of(data), "bytes": len(data)}


# -- the chain -------------------------------------------------------------------------------------------------------


def digest_of_entry(entry: AuditEntry) -> Digest:
    """Return the digest that the next entry names."""
    return digest_of(line_of(entry))


def line_of(entry: AuditEntry) -> bytes:
    """Return the canonical JSON of an entry."""
    return canonical_json(entry.model_dump(mode="json"))


def append(tail: AuditTail, items: Iterable[AuditItem], cursors: Mapping[str, int]) -> AuditTail:
    """Return the log with appended items and updated cursors."""
    entries, count, head = list(tail.entries), tail.count, tail.head
    for item in items:
        count += 1
        entry = AuditEntry(**item.model_dump(), index=count, previous=head)
        entries.append(entry)
        head = digest_of_entry(entry)
    update = {"entries": tuple(entries), "count": count, "head": head, "cursors": {**tail.cursors, **cursors}}
    return tail.model_copy(update=update)


def is_due(tail: AuditTail, now: datetime) -> bool:
    """Return whether the entries are to be sealed as a segment now."""
    if not tail.entries or tail.sealing:
        return False
    age_s = (now - tail.entries[0].at).total_seconds()
    return len(tail.entries) >= SEGMENT_ENTRIES or age_s >= SEGMENT_S


def seal(tail: AuditTail, anchor: Digest) -> AuditTail:
    """Return the log without sealed entries; `anchor` is the digest of their segment's envelope."""
    kept = tail.entries[tail.sealing :]
    return tail.model_copy(update={"entries": kept, "sealing": 0, "segment": tail.segment + 1, "anchor": anchor})


def assess_chain(entries: Sequence[AuditEntry], *, index: int, head: Digest) -> str | None:
    """Return the first break in the chain of entries after entry `index` with digest `head`; None without one."""
    for entry in entries:
        if entry.index != index + 1:
            what = "is there twice or moved" if entry.index <= index else "does not follow"
            return f"Entry {entry.index} {what}: entry {index + 1} is expected here."
        if entry.previous != head:
            return (
                f"Entry {entry.index} follows {entry.previous[:19]}…, entry {index} is {head[:19]}…: one was altered."
            )
        index, head = entry.index, digest_of_entry(entry)
    return None
