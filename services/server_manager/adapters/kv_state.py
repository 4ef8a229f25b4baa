"""Routes, attachments, runtimes and the fleet lease in JetStream key-value buckets."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

import nats.errors
import structlog
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from pydantic import BaseModel

from contracts.attachments import Attachment
from contracts.routes import Route
from contracts.runtimes import LEADER_SUFFIX, RUNTIMES_SUFFIX, FleetRuntimes
from decisions.routes.edits import Changed, Edit
from services.server_manager.domain.records import Leader
from services.server_manager.domain.runtimes import keep_since
from services.server_manager.ports import Extent, RouteListing
from shared.errors import SlipwayError, Transient
from shared.messaging.delivery import RECORD_FAILURES
from shared.runtime.clock import Clock
from shared.storage.compare_and_set import Records, edit_record
from shared.storage.kv import Bucket, Conflict, Entry

M = TypeVar("M", bound=BaseModel)
TERM_STEP: Final = 1_000_000
"""Largest increase of a term by one agent's answer; a takeover increases it by one."""


class KvRecords(Generic[M]):
    """The records of one kind in one bucket (implements `shared.storage.compare_and_set.Records`).

    The connection is looked up at each call, because the service starts before the bus is available.
    """

    def __init__(self, js: Callable[[], JetStreamContext], name: str, kind: type[M], *, service: str = "") -> None:
        """Set up the records.

        Args:
            js: Returns the current connection.
            name: The bucket's name.
            kind: The type of the records.
            service: The service with the failpoint `after_cas` at writes (for tests); empty for none.
        """
        self._js = js
        self._name = name
        self._kind = kind
        self._service = service

    def bucket(self) -> Bucket[M]:
        """Return the bucket on the current connection."""
        return Bucket(self._js(), self._name, self._kind, service=self._service)

    async def get(self, key: str) -> Entry[M] | None:
        """Return a record; None if there is none."""
        return await self.bucket().get(key)

    async def create(self, key: str, value: M) -> int:
        """Create a record; raise Conflict if it exists."""
        return await self.bucket().create(key, value)

    async def update(self, key: str, value: M, revision: int) -> int:
        """Replace a record at `revision`; raise Conflict if it has another revision."""
        return await self.bucket().update(key, value, revision)

    async def keys(self) -> list[str]:
        """Return all keys of the bucket, also of other kinds of records."""
        return await self.bucket().keys()


async def _read_all(records: Records[M]) -> tuple[dict[str, M], dict[str, str]]:
    """Return a bucket's records by key, and why others are unreadable; both empty without a bucket."""
    read: dict[str, M] = {}
    unreadable: dict[str, str] = {}
    try:
        for key in await records.keys():
            try:
                entry = await records.get(key)
            except Transient as error:
                if error.code not in RECORD_FAILURES:
                    raise
                unreadable[key] = error.sentence()
                continue
            if entry is not None:
                read[key] = entry.value
    except NotFoundError:
        return {}, {}
    return read, unreadable


class KvRoutes:
    """The bucket `routes`, one record per model (implements `ports.Routes`)."""

    def __init__(self, records: Records[Route]) -> None:
        self._records = records
        self._unreadable: dict[str, str] = {}

    async def all(self) -> RouteListing:
        """Return every route by model; none without a bucket.

        Damaged routes, and routes of another version, are listed as unreadable.
        """
        routes, unreadable = await _read_all(self._records)
        if routes or unreadable:
            self._log_changes(unreadable)
        return RouteListing(routes, frozenset(unreadable))

    def _log_changes(self, unreadable: dict[str, str]) -> None:
        log = structlog.get_logger()
        for model, reason in unreadable.items():
            if self._unreadable.get(model) != reason:
                log.error("the route of a model cannot be read; it keeps what it serves", model=model, reason=reason)
        for model in sorted(set(self._unreadable) - set(unreadable)):
            log.info("the route of a model can be read again", model=model)
        self._unreadable = unreadable

    async def edit(self, model: str, change: Callable[[Route], Edit]) -> Edit:
        """Apply `change` to the current route, and write the result by compare-and-set."""
        edit: Edit | None = None

        def decide(stored: Route | None) -> Route | None:
            nonlocal edit
            edit = change(stored or Route(model=model))
            return edit.route if isinstance(edit, Changed) else stored

        await edit_record(self._records, model, decide, name=f"routes/{model}")
        assert edit is not None  # noqa: S101 - it decides at least once
        return edit


class KvAttachments:
    """The bucket `attachments`, one record per model (implements `ports.Attachments`)."""

    def __init__(self, records: Records[Attachment]) -> None:
        self._records = records

    async def all(self) -> dict[str, Attachment | None]:
        """Return the record of each attached model, None if unreadable; empty without a bucket.

        Raises:
            Transient: the bus is silent.
        """
        attachments, unreadable = await _read_all(self._records)
        for model, reason in unreadable.items():
            structlog.get_logger().error("an attachment cannot be read", model=model, reason=reason)
        return {**attachments, **dict.fromkeys(unreadable)}


class KvRuntimes:
    """The runtimes of a fleet, in the bucket `servers` under `<fleet>.runtimes` (implements `ports.RuntimesView`)."""

    def __init__(self, records: Records[FleetRuntimes], fleet: str) -> None:
        self._records = records
        self._key = f"{fleet}{RUNTIMES_SUFFIX}"

    async def write(self, runtimes: FleetRuntimes) -> None:
        """Store changed runtimes, with the start of each state; raise Transient if the bus does not answer."""
        await edit_record(
            self._records, self._key, lambda stored: keep_since(runtimes, stored), name=f"servers/{self._key}"
        )


class Terms(Protocol):
    """Storage of the term beside the engines, readable by every process that may act on them."""

    def read(self) -> Leader | None:
        """Return the last process that took the engines over; None if unknown."""

    def holds(self, leader: Leader) -> bool:
        """Return whether every engine's stored leader is this process."""

    def write(self, leader: Leader) -> None:
        """Store the process that takes the engines over; raise OSError if that fails."""


class KvLeadership:
    """The fleet lease, renewed by its holder; it expires `lease_s` after the last renewal.

    Other processes measure `lease_s` on their own clocks since the last revision that they saw, so clocks need not
    agree. The holder treats its lease as expired after `lease_s / 2`, measured from before it sent the renewal.
    """

    def __init__(
        self,
        records: Records[Leader],
        fleet: str,
        holder: str,
        clock: Clock,
        terms: Terms,
        *,
        lease_s: float = 6.0,
        answer_s: float = 2.0,
    ) -> None:
        self._records = records
        self._key = f"{fleet}{LEADER_SUFFIX}"
        self._holder = holder
        self._clock = clock
        self._terms = terms
        self._lease_s = lease_s
        self._answer_s = answer_s
        self._seen = (0, 0.0)
        self._term = 0
        self._superseded_by = 0
        self._sent: float | None = None
        self._unwritten: Leader | None = None
        self._one_at_a_time = asyncio.Lock()
        self._log = structlog.get_logger()

    async def hold(self) -> bool:
        """Acquire or renew the lease if possible; return whether this process holds it."""
        async with self._one_at_a_time:
            return await self._renew(after_s=self._lease_s / 3)

    async def confirm(self) -> Extent:
        """Renew the lease and return this process's permission; to be called before each action on an engine."""
        if self.superseded():
            return Extent.NOTHING
        try:
            async with asyncio.timeout(self._answer_s), self._one_at_a_time:
                held = await self._renew(after_s=0.0, take=False)
        except (nats.errors.Error, OSError, TimeoutError, SlipwayError):
            return Extent.NOTHING if self.superseded() else Extent.RECYCLE
        return Extent.ALL if held and self.valid() and not self.superseded() else Extent.NOTHING

    def valid(self) -> bool:
        """Return whether the lease was renewed so recently that no other process can hold it."""
        return self._sent is not None and self._clock.monotonic() - self._sent < self._lease_s / 2

    def superseded(self) -> bool:
        """Return whether another process took the engines over, by the term stored beside them."""
        last = self._terms.read()
        return last not in (None, self._unwritten, Leader(holder=self._holder, term=self._term))

    @property
    def leader(self) -> Leader:
        """This process with its last term."""
        return Leader(holder=self._holder, term=self._term)

    def note_superseded(self, term: int) -> None:
        """Record the higher term with which an agent refused this process.

        If this process still holds the lease (the bucket was lost or restored), it takes an even higher term.
        Agents' answers are not signed, so one raises the term by at most `TERM_STEP`, to keep it in the valid range.
        """
        self._superseded_by = max(self._superseded_by, min(term, self._term + TERM_STEP))

    async def release(self) -> None:
        """Release the lease, so that another process need not wait for its expiry."""
        async with asyncio.timeout(self._answer_s), self._one_at_a_time:
            entry = await self._records.get(self._key)
            self._sent = None
            if entry is not None and entry.value == Leader(holder=self._holder, term=self._term):
                with contextlib.suppress(Conflict):
                    await self._records.update(self._key, Leader(holder="", term=self._term), entry.revision)

    async def _renew(self, *, after_s: float, take: bool = True) -> bool:
        entry = await self._records.get(self._key)
        now = self._clock.monotonic()
        last = self._terms.read()
        own = self.leader
        current = own.term > self._superseded_by and (last is None or last == own or last.term < own.term)
        if entry is not None and entry.value == own and current:
            if self._sent is not None and now - self._sent < after_s:
                self._note(own, last)
                return True
        elif not take or not self._may_take(entry, now):
            self._sent = None
            return False
        else:
            # Above every known term: the bucket may have been lost or restored.
            known = [self._term, self._superseded_by, last.term if last else 0, entry.value.term if entry else 0]
            own = Leader(holder=self._holder, term=max(known) + 1)
        try:
            if entry is None:
                await self._records.create(self._key, own)
            else:
                await self._records.update(self._key, own, entry.revision)
        except Conflict:
            self._sent = None
            return False
        self._term, self._sent = own.term, now
        self._note(own, last)
        return True

    def _may_take(self, entry: Entry[Leader] | None, now: float) -> bool:
        """Return whether the lease is free: missing, released, expired, or this process's own."""
        if entry is None or entry.value.holder in ("", self._holder):
            return True
        if entry.revision != self._seen[0]:
            self._seen = (entry.revision, now)
        return now - self._seen[1] >= self._lease_s

    def _note(self, own: Leader, last: Leader | None) -> None:
        """Store the term beside the engines, before any action under it."""
        if self._terms.holds(own):
            return
        try:
            self._terms.write(own)
        except OSError as error:
            self._unwritten = last  # the old term stays stored
            self._log.warning("the term could not be written beside the engine", term=own.term, error=repr(error))
