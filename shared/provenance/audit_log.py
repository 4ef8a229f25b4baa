"""Segments of the audit log: written once, signed, read back, and verified with the entries after the last segment."""

import contextlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import ValidationError

from contracts.provenance.attestations import AttesterKey
from contracts.provenance.audit import GENESIS, PREFIX, AuditEntry, AuditTail
from contracts.vocabulary import Digest, canonical_json, digest_of
from decisions.releases.provenance import Problem, assess_key, assess_link, find_key
from decisions.sealed_log.audit import LOST, append, assess_chain, cursors_of, digest_of_entry, line_of, lost_item
from shared.errors import Permanent
from shared.provenance.envelopes import Attester, Signed, Subjects, open_envelope
from shared.storage.blobs import Store
from shared.storage.objects import AlreadyExists, ObjectVersion, Retention

_SEGMENT = re.compile(rf"{re.escape(PREFIX)}([0-9]{{6}})\.jsonl", re.ASCII)
_HEAD, _RECORD = "audit/head", "audit/tail"
"""Subjects of the envelope that signs the end of the log."""
_NEWEST = "the newest entries"


def segment_key(number: int) -> str:
    """Return the key of a segment, numbered from 1."""
    return f"{PREFIX}{number:06d}.jsonl"


def put_segment(store: Store, attester: Attester, tail: AuditTail, retention: Retention | None = None) -> Digest:
    """Write the sealing entries of a log as its next segment; return the digest of the segment's envelope.

    A segment with the same entries, written by another process, stays.

    Raises:
        Permanent: `digest_mismatch` if other entries are there.
    """
    entries, key = tail.entries[: tail.sealing], segment_key(tail.segment)
    body = _body(entries)
    about = Subjects(named={key: digest_of(body)}, previous=tail.anchor, number=tail.segment)
    details: dict[str, object] = {
        "first": entries[0].index,
        "last": entries[-1].index,
        "head": digest_of_entry(entries[-1]),
    }
    envelope = attester.sign("audit", about, details)
    try:
        store.create(key, body + canonical_json({"anchor": json.loads(envelope)}) + b"\n", retention)
    except AlreadyExists:
        there, _, anchor = (store.find(key) or b"").rstrip(b"\n").rpartition(b"\n")
        if there + b"\n" != body:
            raise Permanent(
                "digest_mismatch", f"{key} has other entries than the log; nothing is appended. See docs/operations.md."
            ) from None
        return digest_of(canonical_json(json.loads(anchor)["anchor"]))
    return digest_of(envelope)


def sign_tail(attester: Attester, tail: AuditTail) -> str:
    """Return the envelope that signs the end of a log and the record of its unsealed entries."""
    about = Subjects(named={_HEAD: tail.head, _RECORD: _digest_of_record(tail)}, number=tail.count)
    return attester.sign("audit", about).decode()


def _digest_of_record(tail: AuditTail) -> Digest:
    return digest_of(canonical_json(tail.model_dump(mode="json", exclude={"signature"})))


def _body(entries: Iterable[AuditEntry]) -> bytes:
    return b"".join(line_of(entry) + b"\n" for entry in entries)


@dataclass
class AuditReading:
    """The log as read from its beginning: its entries and all errors.

    Attributes:
        keys: The listed keys of attesters.
        entries: The readable entries, in order of the log.
        problems: The errors in order; empty if the log is intact.
        distrusted: Intact parts signed by a key that was revoked later.
        head: Digest of the last entry.
        anchor: Digest of the last segment's envelope.
        segments: Number of segments read.
        signed_end: Index and digest of the last entry in the envelope of the last segment.
        lost: Reports of lost unsealed entries; they are no problem.
        has_no_end: Whether the record of unsealed entries is missing.
        missing: The first missing segment; None without a gap.
    """

    keys: Sequence[AttesterKey]
    entries: list[AuditEntry] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    distrusted: list[str] = field(default_factory=list)
    head: Digest = GENESIS
    anchor: Digest | None = None
    segments: int = 0
    signed_end: tuple[int, Digest] | None = None
    lost: list[str] = field(default_factory=list)
    has_no_end: bool = False
    missing: str | None = None
    _counted: bool = False

    def segment(self, data: bytes) -> None:
        """Read the next segment: its entries, and its anchor in the last line."""
        number, key = self.segments + 1, segment_key(self.segments + 1)
        self.segments = number
        *lines, anchor = data.rstrip(b"\n").split(b"\n")
        self._lines(lines, key)
        try:
            envelope = canonical_json(json.loads(anchor)["anchor"])
        except (ValueError, KeyError, TypeError):
            self.problems.append(f"{key}: its last line is no anchor: the segment was cut off.")
            self.anchor = None
            return
        opened = self.open(envelope, key)
        if opened is not None:
            wrong = assess_link(opened.claim, number=number, previous=self.anchor)
            if wrong is not None:
                self.problems.append(f"{key}: {wrong.reason}")
            elif opened.claim.step != "audit" or digest_of(b"".join(line + b"\n" for line in lines)) not in (
                opened.statement.digests
            ):
                self.problems.append(f"{key}: its entries are not those that were signed.")
            last, head = (opened.claim.details.get(name) for name in ("last", "head"))
            self.signed_end = (last, head) if isinstance(last, int) and isinstance(head, str) else None
        self.anchor = digest_of(envelope)

    def open(self, envelope: bytes, what: str) -> Signed | None:
        """Return the signed content of an envelope, also with a revoked key; note a revocation or problem.

        A revoked key may not follow a valid one: by then the registry had its successor.
        """
        opened = open_envelope(envelope, [key.model_copy(update={"revoked_at": None}) for key in self.keys])
        if isinstance(opened, Problem):
            self.problems.append(f"{what}: {opened.reason}")
            return None
        key = find_key(self.keys, opened.key.key_id)
        revoked = assess_key(key, opened.claim)
        if revoked is None:
            self._counted = True
        elif self._counted:
            self.problems.append(f"{what}: {revoked.reason} An earlier segment is signed by its successor.")
        else:
            self.distrusted.append(f"{what} is signed by a revoked key: {revoked.reason}")
        return opened

    def end(self, signature: str | None, *, count: int, record: Digest | None = None) -> None:
        """Compare the end of the log with the end that the registry signed.

        Args:
            signature: The envelope, or None.
            count: Index of the last entry.
            record: Digest of the record of unsealed entries; None if unknown.
        """
        if signature is None:
            if count:
                self.problems.append(f"{_NEWEST}: the end of the log is not signed.")
            return
        opened = self.open(signature.encode(), _NEWEST)
        if opened is None:
            return
        signed = {subject.name: f"sha256:{subject.digest['sha256']}" for subject in opened.statement.subject}
        same = signed.get(_HEAD) == self.head and record in (None, signed.get(_RECORD))
        if opened.claim.step != "audit" or opened.claim.number != count or not same:
            self.problems.append(f"{_NEWEST}: they are not those that the registry signed.")

    def resume(self, now: datetime) -> AuditTail:
        """Return a log that continues after its segments, with an entry about the lost record of unsealed entries."""
        count, head = self.signed_end or (self._index(), self.head)
        ended = AuditTail(segment=self.segments + 1, count=count, head=head, anchor=self.anchor)
        reason = (
            f"The record of what came after entry {count} was lost (bucket audit). What the bus still holds of it "
            "follows; what was removed there, and segments that may have followed, are not known."
        )
        item = lost_item(" ".join((reason, *self.problems[:1])), now)
        return append(ended, [item], cursors_of(self.entries))

    def tail(self, tail: AuditTail | None) -> None:
        """Read the unsealed entries (None if lost), and compare them with the signed end of the log."""
        if tail is None:
            self.has_no_end = self.segments > 0
            if self.has_no_end:
                self.lost.append(
                    f"The record of what came after entry {self._index()} is not there (bucket audit). The registry "
                    "goes on behind it with what the bus still holds; see its log if this lasts."
                )
            return
        entries = tail.entries
        if tail.sealing and self.segments == tail.segment:  # written, and not removed from the record yet
            entries = entries[tail.sealing :]
        elif self.segments != tail.segment - 1:
            there = f"{self.segments} segments are there, the log has written {tail.segment - 1}"
            self.problems.append(f"{there}: segments were removed or added.")
        elif self.anchor != tail.anchor:
            self.problems.append(f"{segment_key(self.segments)} is not signed by the envelope that the log names.")
        self._chain(entries, _NEWEST)
        if not self.problems and (self._index(), self.head) != (tail.count, tail.head):
            self.problems.append(f"The log ends with entry {tail.count}, entry {self._index()} is the last one there.")
        self.end(tail.signature, count=tail.count, record=_digest_of_record(tail))

    def line(self, line: bytes) -> None:
        """Read an unsealed entry of an exported log."""
        self._lines([line], _NEWEST)

    def _lines(self, lines: Sequence[bytes], where: str) -> None:
        entries: list[AuditEntry] = []
        for line in lines:
            try:
                entry = AuditEntry.model_validate_json(line)
            except ValidationError:
                self.problems.append(f"{where}: a line after entry {self._index() + len(entries)} is no entry.")
                break
            if line_of(entry) != line:
                self.problems.append(f"{where}: entry {entry.index} is not written as the log writes it.")
            entries.append(entry)
        self._chain(entries, where)

    def _chain(self, entries: Sequence[AuditEntry], where: str) -> None:
        wrong = assess_chain(entries, index=self._index(), head=self.head)
        if wrong is not None:
            self.problems.append(f"{where}: {wrong}")
        self.entries += entries
        self.lost += [f"Entry {entry.index}: {entry.reason}" for entry in entries if entry.action == LOST]
        if entries:
            self.head = digest_of_entry(entries[-1])

    def _index(self) -> int:
        return self.entries[-1].index if self.entries else 0


def read_log(store: Store, tail: AuditTail | None, keys: Sequence[AttesterKey]) -> AuditReading:
    """Return the whole log: the segments in the store, then the unsealed entries (`tail`, None if lost).

    Raises:
        Transient: `store_unavailable`.
    """
    reading = read_segments(store, keys)
    reading.tail(tail)
    return reading


def read_segments(store: Store, keys: Sequence[AttesterKey]) -> AuditReading:
    """Return the reading of all segments of the log.

    Of an overwritten or deleted segment the first version is read, and reported.

    Raises:
        Transient: `store_unavailable`.
    """
    reading = AuditReading(keys)
    store, numbers = _open_segments(store, reading.problems)
    for position, number in enumerate(numbers, 1):
        if number != position:
            reading.missing = segment_key(position)
            reading.problems.append(f"{reading.missing} is missing.")
            break
        reading.segment(store.find(segment_key(number)) or b"")
    return reading


def _open_segments(store: Store, problems: list[str]) -> tuple[Store, list[int]]:
    """Return the store pinned to the segments' first versions, and their numbers; report hidden or replaced ones."""
    versions: dict[str, list[ObjectVersion]] = {}
    for version in store.versions(PREFIX):
        versions.setdefault(version.key, []).append(version)
    pins: dict[str, str] = {}
    numbers = []
    for key, there in sorted(versions.items()):
        name, written = _SEGMENT.fullmatch(key), [version for version in there if not version.marker]
        if name is None or not written:
            continue
        numbers.append(int(name[1]))
        if len(there) == 1:
            continue
        pins[key] = written[0].version_id
        if any(version.marker and version.latest for version in there):
            problems.append(f"{key}: a delete marker hides it; the version before the marker was read.")
        else:
            problems.append(f"{key}: it was replaced; the first version was read.")
    return store.pinned(pins), numbers


def export_log(store: Store, tail: AuditTail, segments: int) -> bytes:
    """Return the log as JSON lines: the segments, the unsealed entries, and a line with the signed end."""
    store, _ = _open_segments(store, [])
    parts = [store.find(segment_key(number)) or b"" for number in range(1, segments + 1)]
    entries = tail.entries[tail.sealing :] if tail.sealing and segments == tail.segment else tail.entries
    end = {"end": {"count": tail.count, "head": tail.head, "segments": segments, "signature": tail.signature}}
    return b"".join(parts) + _body(entries) + canonical_json(end) + b"\n"


def read_export(data: bytes, keys: Sequence[AttesterKey]) -> AuditReading:
    """Return an exported log, verified without bus and store.

    A log truncated to an older signed end verifies; to detect that, keep the last digest elsewhere.
    """
    reading = AuditReading(keys)
    lines: list[bytes] = []
    end: dict[str, object] | None = None
    for line in data.rstrip(b"\n").split(b"\n"):
        if line.startswith(b'{"anchor"'):
            reading.segment(b"\n".join([*lines, line]))
            lines = []
        elif line.startswith(b'{"end"'):
            with contextlib.suppress(ValueError, KeyError, TypeError):
                end = json.loads(line)["end"]
        else:
            lines.append(line)
    for line in lines:
        reading.line(line)
    last = {
        "count": reading.entries[-1].index if reading.entries else 0,
        "head": reading.head,
        "segments": reading.segments,
    }
    signature = end.pop("signature", None) if isinstance(end, dict) else None
    if end is None:
        reading.problems.append("The file has no end: lines were cut off.")
    elif end != last and not reading.problems:
        described = f"entry {last['count']} and {reading.segments} signed segments"
        named = f"entry {end.get('count')} and {end.get('segments')}"
        reading.problems.append(f"The file ends with {described}, its last line names {named}.")
    else:
        reading.end(signature if isinstance(signature, str) else None, count=len(reading.entries))
    return reading
