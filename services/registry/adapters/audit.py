"""Audit log adapters: messages read from the bus, segments written to the store."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg
from nats.js.errors import NotFoundError

from contracts.facts import FACTS
from contracts.provenance.audit import AuditEntry, AuditItem, AuditTail
from contracts.vocabulary import Digest
from decisions.evidence.alerts import A, PlainAlert
from decisions.sealed_log.audit import Source, item_of, unreadable_item
from services.registry.ports import Artifacts
from services.registry.settings import RegistrySettings
from shared.errors import Permanent
from shared.messaging.bus import Bus, Emit
from shared.messaging.events import parse_event
from shared.provenance.audit_log import put_segment, read_segments, sign_tail
from shared.provenance.envelopes import Attester, Trust
from shared.runtime.clock import Clock
from shared.storage.blobs import Store
from shared.storage.objects import Retention

_UNKNOWN = datetime.fromtimestamp(0, UTC)


class LoggedMessages:
    """Reads messages of a stream by sequence number, without a consumer (implements `audit.Messages`)."""

    def __init__(self, js: Callable[[], JetStreamContext]) -> None:
        self._js = js

    async def read(self, source: Source, after: int) -> tuple[AuditItem, int] | None:
        """Return the first message of a source after a sequence number, and its own number; None at the end."""
        try:
            message = await self._js().get_msg(source.stream, after + 1, subject=source.subject, next=True)
        except NotFoundError:
            return None
        number = message.seq or after + 1
        return _item(message, f"{source.stream}/{number}"), number


def _item(message: RawStreamMsg, where: str) -> AuditItem:
    subject, body, at = message.subject or "", message.data or b"", message.time or _UNKNOWN
    fact = FACTS.get(".".join(subject.split(".")[:4]))
    if fact is None:
        return unreadable_item(body, subject, where, at)
    try:
        return item_of(parse_event(fact, subject, body), subject, where, at)
    except Permanent:
        return unreadable_item(body, subject, where, at)


class StoredSegments:
    """Audit log segments in the object store, locked as they are written."""

    def __init__(
        self, store: Store, attester: Attester, trust: Trust, retention: Callable[[], Retention | None]
    ) -> None:
        """Set the store, the signing key, the trusted keys, and the function that computes a segment's retention."""
        self._store, self._attester, self._trust, self._retention = store, attester, trust, retention

    async def resume(self, now: datetime) -> AuditTail | None:
        """Rebuild the log's tail from the stored segments, with an entry about the lost record; None without segments.

        Raises:
            Permanent: `digest_mismatch` if a segment is missing.
        """
        reading = await asyncio.to_thread(read_segments, self._store, self._trust.known())
        if reading.missing is not None:
            reason = (
                f"Nothing is appended to the audit log: its newest entries were lost (bucket audit), and "
                f"{reading.missing} is missing. Restore it; see docs/operations.md."
            )
            raise Permanent("digest_mismatch", reason)
        return reading.resume(now) if reading.segments else None

    async def put(self, tail: AuditTail) -> Digest:
        """Write the log's next segment, signed and create-only; return the digest of its envelope."""
        return await asyncio.to_thread(self._put, tail)

    def _put(self, tail: AuditTail) -> Digest:
        return put_segment(self._store, self._attester, tail, self._retention())

    def sign(self, tail: AuditTail) -> str:
        """Return the signed envelope of the log's tail."""
        return sign_tail(self._attester, tail)


class StoreAlerts:
    """Publishes audit alerts for every model that has versions (implements `audit.Alerts`)."""

    def __init__(self, bus: Bus, artifacts: Artifacts) -> None:
        self._bus, self._artifacts = bus, artifacts

    async def publish(self, fact: type[A], entry: AuditEntry) -> None:
        """Raise or resolve an entry's alerts: one for each model, about the model's newest stored target."""
        message = f"Audit log, entry {entry.index}: {entry.reason}"
        for model in await self._artifacts.models():
            target = (await self._artifacts.versions_of(model, 1)).newest
            if target is None:
                continue
            alert_id = f"audit-{entry.index}-{entry.at:%Y%m%dT%H%M%S}-{model}"
            about = PlainAlert(alert_id, "store", "critical", target, entry.at)
            await self._bus.publish(
                Emit(
                    about.fact(fact, message),
                    model=model,
                    id=f"{alert_id}/{fact.TYPE}",
                    correlation_id=alert_id,
                )
            )


def segment_retention(store: Store, settings: RegistrySettings, clock: Clock) -> Retention | None:
    """Return the retention of a segment written now; None if the bucket has no object lock."""
    if not store.has_lock():
        return None
    return Retention(settings.lock_mode, clock.now() + timedelta(days=settings.lock_audit_days))
