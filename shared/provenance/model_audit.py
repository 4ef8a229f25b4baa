"""The audit log of one model: its entries of each segment, in a signed chain of their own that its team may read.

A member of a team cannot be shown the whole log, which tells of all teams. So the registry also writes the entries of
each model as parts (`audit/models/<model>/000001.jsonl`, numbered as the segment that has the entries). A part has the
entries as they are in the log, with their numbers there, and an envelope that signs them, their model, how many parts
came before, and the last of those. The segment's own envelope names the envelope of each part, so that a reader of the
whole log finds a part that says something else.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from contracts.audit import PREFIX, AuditEntry, AuditItem
from contracts.provenance import AttesterKey
from contracts.services import EVENTS
from contracts.vocabulary import MODEL_NAME_PATTERN, Digest, canonical_json, digest_of
from decisions.releases.provenance import assess_link
from decisions.sealed_log.audit import line_of
from shared.errors import Permanent
from shared.provenance.audit_log import AuditReading
from shared.provenance.envelopes import Attester, Subjects
from shared.storage.blobs import Store
from shared.storage.objects import AlreadyExists, Retention

MODELS = f"{PREFIX}models/"
_MODEL = re.compile(MODEL_NAME_PATTERN)
_NUMBER = re.compile(r"([0-9]{6})\.jsonl", re.ASCII)


def part_key(model: str, segment: int) -> str:
    """Return where the part of a model's log is that has its entries of a segment."""
    return f"{MODELS}{model}/{segment:06d}.jsonl"


def put_parts(
    store: Store, attester: Attester, segment: int, entries: Sequence[AuditEntry], retention: Retention | None = None
) -> dict[str, Digest]:
    """Write the parts of a segment, one for each model in it; return the digests of their envelopes, by model.

    Parts that are there with the same entries stay: another process wrote them, or one that was killed before the
    segment. So a process that goes on late, after later segments were written, writes nothing twice.

    Raises:
        Permanent: `digest_mismatch` if a part has other entries.
    """
    by_model: dict[str, list[AuditEntry]] = {}
    for entry in entries:
        if _MODEL.fullmatch(entry.model):
            by_model.setdefault(entry.model, []).append(entry)
    return {model: _put_part(store, attester, segment, own, retention) for model, own in by_model.items()}


def _put_part(
    store: Store, attester: Attester, segment: int, entries: Sequence[AuditEntry], retention: Retention | None
) -> Digest:
    model = entries[0].model
    body = b"".join(line_of(entry) + b"\n" for entry in entries)
    pinned, segments = _pinned(store, model, [])
    key, before = part_key(model, segment), [number for number in segments if number < segment]
    if segment in segments:
        return _same(pinned, key, body)
    previous = digest_of(_split(pinned.find(part_key(model, before[-1])) or b"")[1]) if before else None
    about = Subjects(named={key: digest_of(body)}, previous=previous, number=len(before) + 1)
    envelope = attester.sign("audit", about, {"model": model, "first": entries[0].index, "last": entries[-1].index})
    try:
        store.create(key, body + canonical_json({"anchor": json.loads(envelope)}) + b"\n", retention)
    except AlreadyExists:
        return _same(_pinned(store, model, [])[0], key, body)
    return digest_of(envelope)


def _same(store: Store, key: str, body: bytes) -> Digest:
    """Return the digest of the envelope of a part that is there; raise Permanent if it has other entries."""
    lines, anchor = _split(store.find(key) or b"")
    if lines != body or not anchor:
        reason = f"{key} has other entries than the log, so nothing is appended; find out who wrote it."
        raise Permanent("digest_mismatch", reason)
    return digest_of(anchor)


def _pinned(store: Store, model: str, problems: list[str]) -> tuple[Store, list[int]]:
    """Return the store as a model's parts are read from, and their segments; add what hides or replaces one."""
    prefix = f"{MODELS}{model}/"
    first: dict[int, str] = {}
    pins: dict[str, str] = {}
    for version in store.versions(prefix):
        match = _NUMBER.fullmatch(version.key.removeprefix(prefix))
        if match is None:
            continue
        if version.marker or version.key in pins:
            problems.append(f"{version.key}: it is hidden or replaced; its first version was read.")
        if not version.marker and version.key not in pins:
            first[int(match[1])] = version.key
            pins[version.key] = version.version_id
    return store.pinned(pins), sorted(first)


def _split(data: bytes) -> tuple[bytes, bytes]:
    """Return the lines of a part, and its envelope; empty if it has none."""
    lines, _, anchor = data.rstrip(b"\n").rpartition(b"\n")
    try:
        return lines + b"\n", canonical_json(json.loads(anchor)["anchor"])
    except (ValueError, KeyError, TypeError):
        return lines + b"\n", b""


@dataclass
class ModelReading(AuditReading):
    """The log of one model as it was read.

    Attributes:
        anchors: Digests of the envelopes of its parts.
        number: Number of the last part, by its envelope.
    """

    model: str = ""
    anchors: list[Digest] = field(default_factory=list)
    number: int = 0

    def part(self, segment: int, data: bytes) -> None:
        """Read the next part, the one of a segment, and note what is wrong with it."""
        number = self.number + 1
        key = part_key(self.model, segment)
        lines, envelope = _split(data)
        for line in lines.rstrip(b"\n").split(b"\n"):
            self._entry(line, key)
        opened = self.open(envelope, key)
        if opened is not None:
            wrong = assess_link(opened.claim, number=number, previous=self.anchors[-1] if self.anchors else None)
            signed = {subject.name: f"sha256:{subject.digest['sha256']}" for subject in opened.statement.subject}
            claimed = opened.claim.number or number
            if claimed > number:
                missing = f"part {number} is" if claimed == number + 1 else f"parts {number} to {claimed - 1} are"
                self.problems.append(f"{key} is part {claimed} of its model: {missing} missing.")
                number = claimed  # the parts behind the gap follow each other
            elif wrong is not None:
                self.problems.append(f"{key}: {wrong.reason}")
            elif opened.claim.step != "audit" or signed != {key: digest_of(lines)}:
                self.problems.append(f"{key}: its entries are not those that were signed.")
        self.number = number
        self.anchors.append(digest_of(envelope))

    def _entry(self, line: bytes, key: str) -> None:
        try:
            entry = AuditEntry.model_validate_json(line)
        except ValueError:
            self.problems.append(f"{key}: a line after entry {self._index()} is no entry.")
            return
        if line_of(entry) != line or entry.model != self.model:
            self.problems.append(f"{key}: entry {entry.index} is not one of {self.model} as the log writes it.")
        elif entry.index <= self._index():
            self.problems.append(f"{key}: entry {entry.index} is there twice or moved.")
        self.entries.append(entry)


def read_model(store: Store, model: str, keys: Sequence[AttesterKey]) -> ModelReading:
    """Return the log of a model, verified from its first part.

    Raises:
        Transient: `store_unavailable`.
    """
    reading = ModelReading(keys, model=model)
    store, segments = _pinned(store, model, reading.problems)
    for segment in segments:
        reading.part(segment, store.find(part_key(model, segment)) or b"")
    return reading


def compare_with_events(reading: ModelReading, items: Iterable[AuditItem]) -> list[AuditItem]:
    """Return the events that are in no part yet; note as problems those that were left out or say something else.

    The registry reads each stream, and of the events of services each type, in its order: an event before one that is
    in the log must be there, too.
    """
    proven = {entry.source: entry for entry in reading.entries}
    last: dict[str, int] = {}
    for entry in reading.entries:
        name, number = _position(entry)
        last[name] = max(last.get(name, 0), number)
    first = min((entry.at for entry in reading.entries), default=None)
    waiting: list[AuditItem] = []
    for item in items:
        name, number = _position(item)
        known = proven.get(item.source)
        if known is None and number < last.get(name, 0) and first is not None and item.at >= first:
            reading.problems.append(f"{item.source} ({item.action}) is not in the log: an entry was left out.")
        elif known is None:
            waiting.append(item)
        elif _content(known) != _content(item):
            reading.problems.append(f"Entry {known.index} says something else than {item.source}, its event.")
    return waiting


def compare_with_log(reading: ModelReading, log: AuditReading, named: Mapping[int, Mapping[str, Digest]]) -> None:
    """Note as problems what the parts of a model and the whole log say differently.

    Args:
        reading: The model's log.
        log: The whole log.
        named: The envelopes of parts that each segment names, by the segment's number.
    """
    expected = [parts[reading.model] for _, parts in sorted(named.items()) if reading.model in parts]
    if reading.anchors[: len(expected)] != expected or len(reading.anchors) > len(expected) + 1:
        reading.problems.append(f"The parts of {reading.model} are not those that the segments of the log name.")
    whole = {entry.index: entry for entry in log.entries}
    for entry in reading.entries:
        if whole.get(entry.index) != entry:
            reading.problems.append(f"Entry {entry.index} of {reading.model} is another one in the whole log.")
            break


def _position(item: AuditItem) -> tuple[str, int]:
    """Return the name of what orders an item's source, and its number there."""
    stream, _, number = item.source.partition("/")
    return f"{stream}:{item.action}" if stream == EVENTS else stream, int(number) if number.isdecimal() else 0


def _content(item: AuditItem) -> bytes:
    """Return what an item says, without its position and the time at which the bus stored it."""
    return canonical_json(
        AuditItem(**item.model_dump(include=set(AuditItem.model_fields))).model_dump(exclude={"at"}, mode="json")
    )
