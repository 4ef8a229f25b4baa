"""Records of locked objects: the registry signs them, and readers read the versions that signed records name."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import structlog
from pydantic import ValidationError

from contracts.manifests import VersionLock
from contracts.provenance import AttesterKey
from contracts.vocabulary import digest_of
from decisions.object_versions import ObjectVersion
from decisions.provenance import Problem, assess_statement
from shared.errors import Permanent
from shared.provenance.envelopes import Attester, Subjects, open_envelope
from shared.storage.blobs import Store, manifest_bytes

MOST_RECORDS = 1000
"""How many records are read of a version, half of them the oldest: who may write there may write any number."""
MOST_BYTES = 64 * 1024**2
"""How many bytes of records are read of a version."""
RECORD_BYTES = 4 * 1024**2
"""The largest object that is read as a record."""
_RECORD = re.compile(r"versions/[^/]+/[0-9]+/locks/([0-9]{6})\.json", re.ASCII)
Origin = Literal["registry", "distrusted", "foreign"]


def lock_key(model: str, version: int, number: int) -> str:
    """Return where the record of a version's locked objects is, from 1."""
    return f"{lock_prefix(model, version)}{number:06d}.json"


def lock_prefix(model: str, version: int) -> str:
    """Return where the records of a version's locked objects are."""
    return f"versions/{model}/{version}/locks/"


@dataclass(frozen=True)
class Locks:
    """The records of a version's locked objects, the first first.

    Attributes:
        own: The records themselves: of each its key and the version that counts.
        foreign: Versions of objects among the records that no key of the registry signed, by key, the newest first.
        next: The lowest number above those of the records at which there is no object.
    """

    records: tuple[VersionLock, ...] = ()
    own: Mapping[str, str] = field(default_factory=dict)
    foreign: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    next: int = 1

    @property
    def pins(self) -> dict[str, tuple[str, ...]]:
        """Return the versions that are read of each object, in the order in which they count."""
        pins: dict[str, tuple[str, ...]] = {key: (version,) for key, version in self.own.items()}
        for locked in (locked for record in self.records for locked in record.objects):
            if locked.version_id not in pins.get(locked.key, ()):
                pins[locked.key] = (*pins.get(locked.key, ()), locked.version_id)
        return pins


def sign_lock(attester: Attester, record: VersionLock) -> bytes:
    """Return a record as it is stored: an attestation of the step `lock` about the record, with the record in it."""
    key = lock_key(record.model, record.version, record.number)
    about = Subjects(named={key: digest_of(manifest_bytes(record))}, number=record.number)
    return attester.sign("lock", about, {"record": record.model_dump(mode="json")})


def open_lock(data: bytes, keys: Sequence[AttesterKey], key: str) -> VersionLock | Problem:
    """Return the record that the registry signed for this key of the store; else why there is none."""
    opened = open_envelope(data, keys)
    if isinstance(opened, Problem):
        return opened
    try:
        record = VersionLock.model_validate(opened.claim.details.get("record"))
    except ValidationError as error:
        return Problem("signature_invalid", f"It holds no record of locked objects: {error.errors()[0]['msg']}.")
    problem = assess_statement(opened.statement, step="lock", digest=digest_of(manifest_bytes(record)))
    if problem is not None:
        return problem
    signed = lock_key(record.model, record.version, record.number)
    return record if key == signed else Problem("digest_mismatch", f"It is {signed}, stored as {key}.")


def read_locks(store: Store, keys: Sequence[AttesterKey], model: str, version: int) -> Locks:
    """Return the records of a version's locked objects that the registry signed for this version and their number.

    Of several versions of a record the first that is signed counts: what is put over it, or was there before it,
    changes nothing.

    Raises:
        Transient: `store_unavailable`.
    """
    records: dict[str, VersionLock] = {}
    own: dict[str, str] = {}
    origins: list[tuple[ObjectVersion, Origin]] = []
    written = [stored for stored in store.versions(lock_prefix(model, version)) if not stored.marker]
    for stored, data in _read(store, written):
        record = open_lock(data, keys, stored.key) if stored.key not in records else records[stored.key]
        if isinstance(record, Problem):
            origins.append((stored, _origin(data, keys, stored.key)))
        elif stored.key not in records:
            records[stored.key], own[stored.key] = record, stored.version_id
    foreign: dict[str, tuple[str, ...]] = {}
    for stored, origin in origins:
        if origin == "foreign" and stored.key not in own:
            foreign[stored.key] = (stored.version_id, *foreign.get(stored.key, ()))
    if foreign:
        structlog.get_logger().warning(
            "records of locked objects are not signed by the registry: ignored", count=len(foreign), first=min(foreign)
        )
    taken = {int(match[1]) for stored in written if (match := _RECORD.fullmatch(stored.key)) is not None}
    last = max((record.number for record in records.values()), default=0)
    unused = next(number for number in range(last + 1, last + len(taken) + 2) if number not in taken)
    return Locks(tuple(records[key] for key in sorted(records)), own, foreign, unused)


def _read(store: Store, written: Sequence[ObjectVersion]) -> Iterator[tuple[ObjectVersion, bytes]]:
    """Yield versions with their content, the oldest first; without it what is no record, or is beyond the limits.

    Of too many the oldest and the newest are read: an identity that writes there hides neither the records that were
    there before, nor those that the registry writes after it.
    """
    ordered = sorted(written, key=lambda stored: stored.modified)
    records = [stored for stored in ordered if _RECORD.fullmatch(stored.key) and stored.size <= RECORD_BYTES]
    chosen = {*_within_limits(records), *_within_limits(records[::-1])}
    if len(chosen) < len(records):
        structlog.get_logger().error(
            "too many records of locked objects: only the oldest and the newest are read",
            prefix=records[0].key.rpartition("/")[0],
            records=len(records),
            read=len(chosen),
        )
    for stored in ordered:
        if (stored.key, stored.version_id) in chosen:
            yield stored, store.pinned({stored.key: (stored.version_id,)}).find(stored.key) or b""
        else:
            yield stored, b""


def _within_limits(records: Sequence[ObjectVersion]) -> Iterator[tuple[str, str]]:
    """Yield the first versions of a sequence, up to half of what is read at most."""
    left = MOST_BYTES // 2
    for record in records[: max(1, MOST_RECORDS // 2)]:
        left -= record.size
        if left < 0:
            return
        yield record.key, record.version_id


def _origin(data: bytes, keys: Sequence[AttesterKey], key: str) -> Origin:
    """Return who wrote what does not count: the registry with a key that was revoked or retired since, or another."""
    listed = [attester.model_copy(update={"revoked_at": None, "retired_at": None}) for attester in keys]
    return "distrusted" if isinstance(open_lock(data, listed, key), VersionLock) else "foreign"


def pin_version(store: Store, keys: Sequence[AttesterKey], model: str, version: int) -> Store:
    """Return a store that reads a version's objects as they were locked; as they are where none is locked.

    What the store pins already is read where no record of this version counts any more.

    Raises:
        Transient: `store_unavailable`.
    """
    try:
        return store.pinned(read_locks(store, keys, model, version).pins)
    except Permanent as error:  # of a store without versions
        structlog.get_logger().warning("locked versions cannot be listed", model=model, version=version, why=str(error))
        return store
