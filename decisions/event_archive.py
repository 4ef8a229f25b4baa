"""The archive of the event log: how messages become a segment, when one is due, and when the log is trimmed."""

import base64
import gzip
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from contracts.event_archive import PREFIX, ArchivedMessage, ArchivedPart, EventArchive, EventGroup, SegmentIndex
from contracts.facts import AlertRaised, AlertResolved, AlertUpdated, WindowSummarised
from contracts.vocabulary import Digest, canonical_json, digest_of

SEGMENT_EVENTS = 10_000
SEGMENT_BYTES = 16 * 1024**2
"""A segment has so many messages or bytes, before they are compressed, at most; or one larger message."""
NEEDED_SKEW = timedelta(minutes=5)
"""How far the clocks of registry and bus may be apart when facts of releases under way are kept."""
LEAST_KEPT = timedelta(days=1)
"""How old events are at least when a full log is trimmed early."""
NOTICE_AGE = timedelta(days=7)
"""How old an alert is at most when the notifier sends it; so long the log waits for a notifier that is down."""
_GZIP = 31
"""What `zlib` calls the format of `gzip`."""
_GROUPS: Mapping[str, EventGroup] = {
    WindowSummarised.TYPE: "windows",
    AlertRaised.TYPE: "alerts",
    AlertUpdated.TYPE: "alerts",
    AlertResolved.TYPE: "alerts",
}


def group_of(subject: str) -> EventGroup:
    """Return the group of a message, by its subject; staging belongs to the same groups as production."""
    type_ = subject.replace("slipway.staging.", "slipway.", 1) if subject.startswith("slipway.staging.") else subject
    return _GROUPS.get(".".join(type_.split(".")[:4]), "releases")


def model_of(subject: str) -> str:
    """Return the model that a subject of the log names before its sender."""
    tokens = subject.split(".")
    return tokens[-2] if len(tokens) > 2 else "_"


# -- segments --------------------------------------------------------------------------------------------------------


def segment_key(archive: str, number: int) -> str:
    """Return where a segment is."""
    return f"{PREFIX}{archive}/{number:06d}.jsonl.gz"


def index_key(archive: str, number: int) -> str:
    """Return where the signed index of a segment is; it is written after the segment, and commits it."""
    return f"{PREFIX}{archive}/{number:06d}.json"


def message_of(sequence: int, subject: str, at: datetime, message_id: str, body: bytes) -> ArchivedMessage:
    """Return a message as it is archived."""
    named = {"sequence": sequence, "subject": subject, "at": at, "id": message_id}
    try:
        return ArchivedMessage(**named, body=body.decode())
    except UnicodeDecodeError:
        return ArchivedMessage(**named, body=base64.b64encode(body).decode(), encoding="base64")


def body_of(message: ArchivedMessage) -> bytes:
    """Return the bytes of an archived message."""
    return base64.b64decode(message.body) if message.encoding == "base64" else message.body.encode()


def line_of(message: ArchivedMessage) -> bytes:
    """Return a message as a line of a segment."""
    return canonical_json(message.model_dump(mode="json", exclude_defaults=True)) + b"\n"


def pack(messages: Iterable[ArchivedMessage]) -> bytes:
    """Return a segment: a compressed member for each model and group, one after the other; `gunzip` reads the whole."""
    grouped: dict[tuple[str, EventGroup], list[bytes]] = {}
    for message in messages:
        grouped.setdefault(_part_key(message), []).append(line_of(message))
    return b"".join(gzip.compress(b"".join(lines), mtime=0) for _, lines in sorted(grouped.items()))


def unpack(data: bytes) -> list[ArchivedMessage]:
    """Return the messages of a part, or of a whole segment, in the order of the log.

    Raises:
        ValueError: The bytes are not what `pack` made.
    """
    messages = (message for _, _, chosen in _members(data) for message in chosen)
    return sorted(messages, key=lambda message: message.sequence)


def index_of(archive: EventArchive, segment: bytes) -> SegmentIndex:
    """Return the index of the segment that an archive is sealing, from its bytes.

    Raises:
        ValueError: The bytes are not what `pack` made.
    """
    members = _members(segment)
    parts = tuple(_part(segment, archive.newest, *member) for member in members)
    times = sorted((chosen[end].sequence, chosen[end].at) for _, _, chosen in members for end in (0, -1))
    return SegmentIndex(
        archive=archive.id,
        number=archive.segment,
        first=archive.archived + 1,
        last=archive.sealing,
        begins_at=times[0][1],
        ends_at=times[-1][1],
        digest=digest_of(segment),
        size_bytes=len(segment),
        parts=parts,
    )


def _members(data: bytes) -> list[tuple[int, int, list[ArchivedMessage]]]:
    """Return begin, end and messages of each compressed member."""
    members, begin = [], 0
    while begin < len(data):
        member = zlib.decompressobj(wbits=_GZIP)
        try:
            lines = member.decompress(data[begin:])
        except zlib.error as error:
            msg = f"it is not compressed as it should be: {error}"
            raise ValueError(msg) from error
        if not member.eof or not lines:
            msg = "it ends within a compressed part"
            raise ValueError(msg)
        end = len(data) - len(member.unused_data)
        members.append((begin, end, [ArchivedMessage.model_validate_json(line) for line in lines.splitlines()]))
        begin = end
    return members


def _part(
    segment: bytes, newest: Mapping[str, int], begin: int, end: int, messages: Sequence[ArchivedMessage]
) -> ArchivedPart:
    model, group = _part_key(messages[0])
    return ArchivedPart(
        model=model,
        group=group,
        offset_bytes=begin,
        size_bytes=end - begin,
        digest=digest_of(segment[begin:end]),
        events=len(messages),
        first=messages[0].sequence,
        last=messages[-1].sequence,
        before=newest.get(f"{model}/{group}", 0),
    )


def _part_key(message: ArchivedMessage) -> tuple[str, EventGroup]:
    return model_of(message.subject), group_of(message.subject)


def advance(archive: EventArchive, index: SegmentIndex, anchor: Digest) -> EventArchive:
    """Return the archive after a segment was committed by an envelope with this digest."""
    newest = {f"{part.model}/{part.group}": index.number for part in index.parts}
    return archive.model_copy(
        update={
            "segment": index.number + 1,
            "sealing": 0,
            "archived": index.last,
            "anchor": anchor,
            "newest": {**archive.newest, **newest},
        }
    )


def trim(archive: EventArchive, index: SegmentIndex, messages: Iterable[ArchivedMessage]) -> EventArchive:
    """Return the archive after the messages of its next segment to trim, in their order, were removed from the log."""
    newest = {f"{part.model}/{part.group}": index.number for part in index.parts}
    alerts = {model: dict(known) for model, known in archive.open_alerts.items()}
    for message in messages:
        alert = _alert_of(message)
        if alert is None:
            continue
        known = alerts.setdefault(model_of(message.subject), {})
        if ".alert.resolved." in message.subject:
            known.pop(alert, None)
        else:
            known[alert] = index.number
    return archive.model_copy(
        update={
            "trimmed": index.number,
            "trimmed_newest": {**archive.trimmed_newest, **newest},
            "open_alerts": {model: known for model, known in alerts.items() if known},
        }
    )


def _alert_of(message: ArchivedMessage) -> str | None:
    """Return the id of the alert that a message is about; None if it is about none, or cannot be read."""
    if group_of(message.subject) != "alerts":
        return None
    try:
        alert = json.loads(message.body)["data"]["alert_id"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return alert if isinstance(alert, str) else None


# -- when ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LogState:
    """How large the log is.

    Attributes:
        first: The number of its first message.
        last: The number of its last message.
        messages: How many it has.
        bytes: How many bytes they take.
        limit_bytes: How many it may hold; None for no limit.
        bus_at: The time by the bus's clock. That of its newest message would stand still once a full log takes no more.
    """

    first: int
    last: int
    messages: int
    bytes: int
    limit_bytes: int | None
    bus_at: datetime


def is_due(archive: EventArchive, log: LogState, oldest_at: datetime | None, now: datetime, every: timedelta) -> bool:
    """Return whether the next segment is written now: it is full, by a mean message, or its first message is old.

    Args:
        archive: How far the log is archived.
        log: How large the log is.
        oldest_at: When the bus stored the first message that is in no segment; None if there is none.
        now: The time by the registry's clock; that of the bus counts if it is later: a clock behind delays nothing.
        every: After how long a message is archived at the latest.
    """
    if oldest_at is None:
        return False
    waiting = log.last - max(archive.archived, log.first - 1)
    mean_bytes = log.bytes / max(1, log.messages)
    age = max(now, log.bus_at) - oldest_at
    return waiting >= SEGMENT_EVENTS or waiting * mean_bytes >= SEGMENT_BYTES or age >= every


@dataclass(frozen=True)
class Needs:
    """What must stay in the log.

    Attributes:
        since: When the oldest release under way was opened; None if none is.
        unread: The first number that a service may not have read yet; None if all were.
        unsent: The same of an optional service that has read before; None if there is none.
    """

    since: datetime | None
    unread: int | None
    unsent: int | None = None


@dataclass(frozen=True)
class Keeping:
    """How long events stay in the log after they are archived.

    Attributes:
        age: So long.
        full_ratio: Beyond this share of its limit the log is trimmed earlier, down to `LEAST_KEPT`.
    """

    age: timedelta
    full_ratio: float


def is_full(log: LogState, keeping: Keeping) -> bool:
    """Return whether the log is so full that it is trimmed early."""
    return log.limit_bytes is not None and log.bytes > keeping.full_ratio * log.limit_bytes


def is_almost_full(log: LogState, keeping: Keeping) -> bool:
    """Return whether the log is so full that it waits for no optional service: full, it would take no alert at all."""
    return is_full(log, Keeping(keeping.age, (1 + keeping.full_ratio) / 2))


def why_kept(index: SegmentIndex, log: LogState, needs: Needs, keeping: Keeping, now: datetime) -> str | None:
    """Return why the events of an archived segment stay in the log; None if they may be removed from it.

    The time is the earlier one of the registry's clock and the bus's: one clock that jumps ahead removes nothing.
    """
    now = min(now, log.bus_at)
    least = min(keeping.age, LEAST_KEPT) if is_full(log, keeping) else keeping.age
    if now - index.ends_at < least:
        return "age"
    if needs.since is not None and index.ends_at >= needs.since - NEEDED_SKEW:
        return "release"
    if needs.unread is not None and index.last >= needs.unread:
        return "unread"
    may_be_sent = needs.unsent is not None and index.last >= needs.unsent and now - index.ends_at < NOTICE_AGE
    return "unsent" if may_be_sent and not is_almost_full(log, keeping) else None
