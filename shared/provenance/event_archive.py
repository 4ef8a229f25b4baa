"""Segments of the archived event log: written once and signed, verified, and read whole or by model."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Final

import structlog
from pydantic import ValidationError

from contracts.event_archive import ArchivedMessage, ArchivedPart, EventArchive, EventGroup, SegmentIndex
from contracts.provenance import AttesterKey
from contracts.vocabulary import Digest, digest_of
from decisions.event_archive import index_key, index_of, pack, segment_key, trim, unpack
from decisions.provenance import Problem, assess_key, assess_link, find_key
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
        unproven: Why its key does not count, if no later index that counts names it; None if it counts.
    """

    index: SegmentIndex
    anchor: Digest
    previous: Digest | None
    unproven: str | None = None

    def proven(self) -> SegmentIndex:
        """Return the index.

        Raises:
            Permanent: `key_not_trusted` if it does not count.
        """
        if self.unproven is not None:
            name = index_key(self.index.archive, self.index.number)
            later = "no later segment by a key that counts names it yet; see docs/runbooks/provenance.md"
            raise Permanent("key_not_trusted", f"{name}: {self.unproven[:-1]}, and {later}.")
        return self.index


def put_segment(
    store: Store,
    attester: Attester,
    archive: EventArchive,
    messages: Sequence[ArchivedMessage],
    retention: Retention | None = None,
    *,
    keys: Sequence[AttesterKey] = (),
) -> SignedIndex:
    """Write the messages that an archive is sealing as its next segment, then its index; return that index.

    Both are create-only. What is in the store then is read back, and compared with the messages, before the index is
    signed. The same index by one of the listed keys, also a revoked one, stays.

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
        for signed in _versions(store, [attester.listed(), *keys], archive.id, archive.segment):
            if isinstance(signed, SignedIndex) and (signed.index, signed.previous) == (index, archive.anchor):
                return signed
        raise Permanent("digest_mismatch", f"{name} is another index; nothing is archived or trimmed.") from None
    return SignedIndex(index, digest_of(envelope), archive.anchor)


@dataclass
class _Named:
    """With some keys: digests that later indexes name, by archive and number; whether a revoked key was reported."""

    keys: Sequence[AttesterKey] = ()
    digests: dict[tuple[str, int], Digest] = field(default_factory=dict)
    reported: bool = False


def _warn(what: str) -> None:
    structlog.get_logger().warning("the archive of the event log has segments by revoked keys", first=what)


class SignedIndexes:
    """The signed indexes of archives.

    One that something was written over, or that a delete marker hides, is read in its first version. One by a key that
    was revoked since counts if a later index that counts names its envelope: who has the key cannot add another.
    """

    def __init__(
        self, store: Store, keys: Callable[[], Sequence[AttesterKey]], report: Callable[[str], None] = _warn
    ) -> None:
        """Take the store, what returns the listed keys, and what is called with the first index by a revoked key."""
        self.store, self._keys, self._report, self._named = store, keys, report, _Named()

    def find(self, archive: str, number: int) -> SignedIndex | None:
        """Return the signed index of a segment; None if there is none.

        Raises:
            Permanent: `signature_invalid` or `key_not_trusted` if no listed key signed it, `digest_mismatch` if it is
                of another segment.
            Transient: `store_unavailable`.
        """
        named, unproven, problem = self._known(), None, None
        for opened in _versions(self.store, named.keys, archive, number):
            if isinstance(opened, Problem):
                problem = opened
            elif opened.unproven is None:
                return opened
            elif opened.anchor == self._named_later(named, archive, number):
                if not named.reported:
                    named.reported = True
                    self._report(f"{index_key(archive, number)} is signed by a revoked key: {opened.unproven}")
                return replace(opened, unproven=None)
            else:
                unproven = opened
        if unproven is None and problem is not None:
            raise Permanent(problem.code, f"{index_key(archive, number)}: {problem.reason}")
        return unproven

    def require(self, archive: str, number: int) -> SegmentIndex:
        """Return the signed index of a segment that was written.

        Raises:
            Permanent: `artifact_not_found` if it is gone, `key_not_trusted` if nothing proves it, and what `find`
                raises.
            Transient: `store_unavailable`.
        """
        signed = self.find(archive, number)
        if signed is None:
            reason = f"Segment {number} of the archive {archive} is gone; restore it from a backup."
            raise Permanent("artifact_not_found", reason)
        return signed.proven()

    def _known(self) -> _Named:
        keys = self._keys()
        if keys != self._named.keys:
            self._named = _Named(keys)
        return self._named

    def _named_later(self, named: _Named, archive: str, number: int) -> Digest | None:
        """Return the digest of an index by the first later one that counts, or what it names; None if none counts."""
        passed: list[tuple[Digest, Digest]] = []  # digests of an index and of the one before it
        last = number
        while (archive, last) not in named.digests:
            later = self._first_signed(named, archive, last + 1)
            if later is None or later.previous is None:
                return None
            if later.unproven is None:
                named.digests[archive, last] = later.previous
            else:
                passed.append((later.anchor, later.previous))
                last += 1
        while last > number:
            anchor, previous = passed.pop()
            if anchor != named.digests[archive, last]:  # something was written over it
                first = self._first_signed(named, archive, last, named.digests[archive, last])
                if first is None or first.previous is None:
                    return None
                previous = first.previous
            last -= 1
            named.digests[archive, last] = previous
        return named.digests[archive, number]

    def _first_signed(
        self, named: _Named, archive: str, number: int, digest: Digest | None = None
    ) -> SignedIndex | None:
        opened = _versions(self.store, named.keys, archive, number)
        signed = (index for index in opened if isinstance(index, SignedIndex))
        return next((index for index in signed if digest in (None, index.anchor)), None)


def _versions(store: Store, keys: Sequence[AttesterKey], archive: str, number: int) -> Iterator[SignedIndex | Problem]:
    """Yield the index of a segment as it is now, then as it was first written."""
    name = index_key(archive, number)
    for read in (store.find, partial(_first_version, store)):
        data = read(name)
        if data is not None:
            yield _open(data, keys, archive, number)


def _open(data: bytes, keys: Sequence[AttesterKey], archive: str, number: int) -> SignedIndex | Problem:
    opened = open_envelope(data, [key.model_copy(update={"revoked_at": None}) for key in keys])
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
    revoked = assess_key(find_key(keys, opened.key.key_id), opened.claim)
    return SignedIndex(index, opened.digest, opened.claim.previous, None if revoked is None else revoked.reason)


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


def count_removed(indexes: SignedIndexes, archive: EventArchive, first: int) -> EventArchive:
    """Return how far the log is trimmed, by the number of its first message.

    The registry removes a segment's messages before it counts that: killed in between, the record lags behind.

    Raises:
        Permanent: `digest_mismatch`, `signature_invalid`, `key_not_trusted`.
        Transient: `store_unavailable`.
    """
    while archive.trimmed + 1 < archive.segment:
        signed = indexes.find(archive.id, archive.trimmed + 1)
        if signed is None or signed.index.last >= first:  # the registry removes no events of a segment that is gone
            break
        index = signed.proven()
        archive = trim(archive, index, read_segment(indexes.store, index))
    return archive


def read_model(
    indexes: SignedIndexes,
    archive: EventArchive,
    model: str,
    groups: Iterable[EventGroup],
    *,
    since: datetime | None = None,
    last: Callable[[ArchivedMessage], bool] | None = None,
    most: int | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> list[ArchivedMessage]:
    """Return the trimmed messages of a model, in the order of the log; segments without any are not opened.

    Args:
        indexes: The indexes of segments.
        archive: How far the log is archived and trimmed.
        model: The model.
        groups: The groups that are read.
        since: When the bus stored the first one; None for no limit.
        last: Returns whether a message is the oldest one of its group that is needed; no segment before it is read.
        most: How many messages are read at most; None for no limit.
        cancelled: Returns whether the result is needed no more: then nothing further is read.

    Raises:
        Permanent: `artifact_not_found`, `digest_mismatch`, `signature_invalid`, `key_not_trusted`; `too_large` if there
            are more than `most`.
        Transient: `store_unavailable`.
    """
    messages: list[ArchivedMessage] = []
    newest = {group: archive.trimmed_newest.get(f"{model}/{group}", 0) for group in groups}
    while (number := max(newest.values(), default=0)) and not cancelled():
        index = indexes.require(archive.id, number)
        for part in index.parts:
            if part.model != model or newest.get(part.group) != number:
                continue
            read = read_part(indexes.store, index, part)
            messages += (message for message in read if since is None or message.at >= since)
            if most is not None and len(messages) > most:
                raise Permanent("too_large", f"{model} has more than {most} events in the archive of the event log.")
            ends = (since is not None and index.begins_at < since) or (last is not None and any(map(last, read)))
            newest[part.group] = 0 if ends else part.before
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
