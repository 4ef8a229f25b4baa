"""The archive of the event log: segments in the store that the registry signs, and what each has of each model."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from .records import StoredRecord
from .vocabulary import Contract, Digest, Instant

EventGroup = Literal["windows", "alerts", "releases"]
"""Windows of traffic, alerts, and everything else: what is read together lies together in a segment."""
BUCKET: Final = "archive"
"""The KV bucket of the record, and its only key."""
KEY: Final = "events"
PREFIX: Final = "events/"
"""Where segments are in the store: `events/ARCHIVE/000001.jsonl.gz`, and its signed index `000001.json`."""


class ArchivedMessage(Contract):
    """A message of the log as one line of a segment.

    Attributes:
        sequence: Its number in the log.
        at: When the bus stored it.
        id: Its message id; empty if it has none.
        body: Its bytes as text.
        encoding: How the bytes are text: `base64` if they are no UTF-8.
    """

    sequence: Annotated[int, Field(ge=1)]
    subject: str
    at: Instant
    id: str = ""
    body: str
    encoding: Literal["utf-8", "base64"] = "utf-8"


class ArchivedPart(Contract):
    """The events of one model and group in a segment: lines in the order of the log, compressed by themselves.

    Attributes:
        offset_bytes: Where the part begins in the segment.
        digest: Digest of its compressed bytes.
        events: How many lines it has.
        first: Number of its first event in the log.
        last: Number of its last one.
        before: Number of the newest earlier segment with events of this model and group; 0 for none.
    """

    model: str
    group: EventGroup
    offset_bytes: Annotated[int, Field(ge=0)]
    size_bytes: Annotated[int, Field(ge=1)]
    digest: Digest
    events: Annotated[int, Field(ge=1)]
    first: Annotated[int, Field(ge=1)]
    last: Annotated[int, Field(ge=1)]
    before: Annotated[int, Field(ge=0)] = 0


class SegmentIndex(Contract):
    """What a segment holds: all messages of the log from one number to another. The registry signs it.

    Attributes:
        archive: Id of the archive.
        number: Its number there, from 1.
        first: The number in the log that it begins with.
        last: The number in the log that it ends with.
        begins_at: When the bus stored its first message.
        ends_at: When the bus stored its last message.
        digest: Digest of the segment.
    """

    archive: str
    number: Annotated[int, Field(ge=1)]
    first: Annotated[int, Field(ge=1)]
    last: Annotated[int, Field(ge=1)]
    begins_at: Instant
    ends_at: Instant
    digest: Digest
    size_bytes: Annotated[int, Field(ge=1)]
    parts: tuple[ArchivedPart, ...]


class EventArchive(StoredRecord):
    """How far the log is archived and trimmed: the record `events` in the bucket `archive`.

    Attributes:
        id: Drawn when the record is made, so that no other log writes under the same names.
        segment: Number of the segment that comes next.
        sealing: The number in the log that this segment is being written up to; 0 if none is.
        archived: The last number in the log that is in a segment.
        anchor: Digest of the index of the segment before; None before the first.
        newest: Number of the newest segment with events of a model and group, by `MODEL/GROUP`.
        trimmed: Number of the last segment whose events were removed from the log; 0 for none.
        trimmed_newest: As `newest`, of segments up to that one.
        open_alerts: Alerts that are open where the log was trimmed: by model and id, the segment of their last event.
    """

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    segment: Annotated[int, Field(ge=1)] = 1
    sealing: Annotated[int, Field(ge=0)] = 0
    archived: Annotated[int, Field(ge=0)] = 0
    anchor: Digest | None = None
    newest: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    trimmed: Annotated[int, Field(ge=0)] = 0
    trimmed_newest: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    open_alerts: dict[str, dict[str, Annotated[int, Field(ge=1)]]] = Field(default_factory=dict)
