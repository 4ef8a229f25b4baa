"""Segments of the archived event log: written once and signed, verified, and read whole or by model."""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pydantic import ValidationError

from contracts.event_archive import ArchivedMessage, ArchivedPart, EventArchive, EventGroup, SegmentIndex
from contracts.provenance import AttesterKey
from contracts.vocabulary import Digest, digest_of
from decisions.event_archive import index_key, index_of, pack, segment_key, trim, unpack
from decisions.provenance import Problem, assess_link
from shared.errors import Permanent
from shared.provenance.envelopes import Attester, Subjects, open_envelope
from shared.storage.blobs import Store
from shared.storage.objects import AlreadyExists, Retention

_STEP: Final = "archive"


@dataclass(frozen=True)
class SignedIndex:
    """An index whose signature holds.

    Attributes:
        anchor: Digest of the envelope that signs it.
        previous: Digest of the envelope of the segment before; None for the first.
    """

    index: SegmentIndex
    anchor: Digest
    previous: Digest | None


def put_segment(
    store: Store,
    attester: Attester,
    archive: EventArchive,
    messages: Sequence[ArchivedMessage],
    retention: Retention | None = None,
) -> SignedIndex:
    """Write the messages that an archive is sealing as its next segment, then its index; return that index.

    Both are create-only. What is in the store then is read back, and compared with the messages, before the index is
    signed.

    Raises:
        Permanent: `digest_mismatch` if another segment is there.
    """
    key = segment_key(archive.id, archive.segment)
    with contextlib.suppress(AlreadyExists):  # of a process that ended before it wrote the index; compared below
        store.create(key, pack(messages), retention)
    segment = store.find(key) or b""
    if _messages(segment, key) != list(messages):
        raise Permanent("digest_mismatch", f"{key} has other events than the log; nothing is archived or trimmed.")
    index = index_of(archive, segment)
    name = index_key(archive.id, archive.segment)
    about = Subjects(named={key: index.digest}, previous=archive.anchor, number=archive.segment)
    envelope = attester.sign(_STEP, about, {"index": index.model_dump(mode="json")})
    try:
        store.create(name, envelope, retention)
    except AlreadyExists:
        signed = find_index(store, [attester.listed()], archive.id, archive.segment)
        if signed is None or (signed.index, signed.previous) != (index, archive.anchor):
            raise Permanent("digest_mismatch", f"{name} is another index; nothing is archived or trimmed.") from None
        return signed
    return SignedIndex(index, digest_of(envelope), archive.anchor)


def find_index(store: Store, keys: Sequence[AttesterKey], archive: str, number: int) -> SignedIndex | None:
    """Return the signed index of a segment; None if there is none.

    One that something was written over, or that a delete marker hides, is read in its first version.

    Raises:
        Permanent: `signature_invalid` or `key_not_trusted` if no listed key signed it, `digest_mismatch` if it is of
            another segment.
        Transient: `store_unavailable`.
    """
    name = index_key(archive, number)
    data = store.find(name)
    opened = _open(data, keys, archive, number) if data is not None else None
    if isinstance(opened, SignedIndex):
        return opened
    first = _first_version(store, name)
    again = _open(first, keys, archive, number) if first is not None else None
    if isinstance(again, Problem):
        raise Permanent(again.code, f"{name}: {again.reason}")
    return again


def _open(data: bytes, keys: Sequence[AttesterKey], archive: str, number: int) -> SignedIndex | Problem:
    opened = open_envelope(data, keys)
    if isinstance(opened, Problem):
        return opened
    try:
        index = SegmentIndex.model_validate(opened.claim.details.get("index"))
    except ValidationError as error:
        return Problem("digest_mismatch", f"It is no index of a segment: {error.errors()[0]['msg']}.")
    wrong = assess_link(opened.claim, number=number, previous=opened.claim.previous)
    if wrong is not None:
        return wrong
    if opened.claim.step != _STEP or (index.archive, index.number) != (archive, number):
        return Problem("digest_mismatch", "It is the index of another segment.")
    return SignedIndex(index, opened.digest, opened.claim.previous)


def read_segment(store: Store, index: SegmentIndex) -> list[ArchivedMessage]:
    """Return all messages of a segment, in the order of the log, after its digest was compared.

    Raises:
        Permanent: `artifact_not_found`, `digest_mismatch`.
        Transient: `store_unavailable`.
    """
    key = segment_key(index.archive, index.number)
    for data in (store.find(key), _first_version(store, key)):
        if data is not None and digest_of(data) == index.digest:
            return _messages(data, key)
    raise Permanent("digest_mismatch", f"{key} is missing, or not what was signed; restore it from a backup.")


def read_part(store: Store, index: SegmentIndex, part: ArchivedPart) -> list[ArchivedMessage]:
    """Return the messages of one part of a segment; no other byte of it is read, unless it was replaced.

    Raises:
        Permanent: `artifact_not_found`, `digest_mismatch`.
        Transient: `store_unavailable`.
    """
    key = segment_key(index.archive, index.number)
    try:
        data = store.read_range(key, part.offset_bytes, part.size_bytes, index.size_bytes)
    except Permanent:
        data = b""
    if digest_of(data) != part.digest:
        whole = _first_version(store, key) or b""
        data = whole[part.offset_bytes : part.offset_bytes + part.size_bytes]
    if digest_of(data) != part.digest:
        raise Permanent("digest_mismatch", f"{key} is missing, or not what was signed; restore it from a backup.")
    return _messages(data, key)


def require_index(store: Store, keys: Sequence[AttesterKey], archive: str, number: int) -> SegmentIndex:
    """Return the signed index of a segment that was written.

    Raises:
        Permanent: `artifact_not_found` if it is gone, and what `find_index` raises.
        Transient: `store_unavailable`.
    """
    signed = find_index(store, keys, archive, number)
    if signed is None:
        reason = f"Segment {number} of the archive {archive} is gone; restore it from a backup."
        raise Permanent("artifact_not_found", reason)
    return signed.index


def count_removed(store: Store, keys: Sequence[AttesterKey], archive: EventArchive, first: int) -> EventArchive:
    """Return how far the log is trimmed, by the number of its first message.

    The registry removes a segment's messages before it counts that: killed in between, the record lags behind.

    Raises:
        Permanent: `digest_mismatch`, `signature_invalid`, `key_not_trusted`.
        Transient: `store_unavailable`.
    """
    while archive.trimmed + 1 < archive.segment:
        signed = find_index(store, keys, archive.id, archive.trimmed + 1)
        if signed is None or signed.index.last >= first:  # the registry removes no events of a segment that is gone
            break
        archive = trim(archive, signed.index, read_segment(store, signed.index))
    return archive


def read_model(
    store: Store,
    keys: Sequence[AttesterKey],
    archive: EventArchive,
    model: str,
    groups: Iterable[EventGroup],
    *,
    since: datetime | None = None,
    last: Callable[[ArchivedMessage], bool] | None = None,
) -> list[ArchivedMessage]:
    """Return the trimmed messages of a model, in the order of the log; segments without any are not opened.

    Args:
        store: The store.
        keys: The listed keys of attesters.
        archive: How far the log is archived and trimmed.
        model: The model.
        groups: The groups that are read.
        since: When the bus stored the first one; None for no limit.
        last: Returns whether a message is the oldest one that is needed; no segment before it is read.

    Raises:
        Permanent: `artifact_not_found`, `digest_mismatch`, `signature_invalid`, `key_not_trusted`.
        Transient: `store_unavailable`.
    """
    messages: list[ArchivedMessage] = []
    for group in groups:
        number = archive.trimmed_newest.get(f"{model}/{group}", 0)
        while number:
            index = require_index(store, keys, archive.id, number)
            part = next(each for each in index.parts if (each.model, each.group) == (model, group))
            read = read_part(store, index, part)
            messages += (message for message in read if since is None or message.at >= since)
            if (since is not None and index.begins_at < since) or (last is not None and any(map(last, read))):
                break
            number = part.before
    return sorted(messages, key=lambda message: message.sequence)


def _messages(data: bytes, key: str) -> list[ArchivedMessage]:
    try:
        return unpack(data)
    except ValueError as error:
        raise Permanent("digest_mismatch", f"{key} is no segment of the event log: {error}.") from error


def _first_version(store: Store, key: str) -> bytes | None:
    """Return an object as it was first written; None if it was never there."""
    written = [version for version in store.versions(key) if version.key == key and not version.marker]
    return store.pinned({key: (written[0].version_id,)}).find(key) if written else None
