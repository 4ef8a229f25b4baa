"""Keeps the records of releases: read, ask the domain, write by compare-and-set, publish, clear."""

import asyncio
from dataclasses import dataclass
from weakref import WeakValueDictionary

import structlog

from contracts.facts import FACTS
from contracts.manifests import BaseManifest
from contracts.policy import ReleasePolicy
from contracts.routes import Route
from services.registry.domain import admission, deadlines, releases, versions
from services.registry.domain.announcements import Announcements
from services.registry.domain.record import (
    DeadlineReached,
    Input,
    ManifestWritten,
    Outgoing,
    Release,
    SlotGranted,
    Superseded,
)
from services.registry.domain.versions import ModelRecord
from services.registry.ports import Artifacts, Inbox, Publisher, Records
from shared.errors import Permanent, Transient
from shared.messaging.bus import Emit
from shared.runtime.clock import Clock
from shared.runtime.failpoints import failpoint
from shared.storage.kv import Conflict, Entry

_ATTEMPTS = 50


@dataclass(frozen=True)
class Outside:
    """Everything around the registry, bound to ports."""

    releases: Records[Release]
    models: Records[ModelRecord]
    announcements: Records[Announcements]
    inbox: Inbox
    policies: Records[ReleasePolicy]
    routes: Records[Route]
    artifacts: Artifacts
    publisher: Publisher
    clock: Clock


def release_record(model: str, release_id: str) -> str:
    """Return the key of a release's record."""
    return f"{model}.{release_id}"


def model_record(model: str) -> str:
    """Return the key of a model's record, which lies among its releases."""
    return f"{model}.model"


class Ledger:
    """The records of releases and models."""

    def __init__(self, outside: Outside) -> None:
        self._out = outside
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    # -- releases ---------------------------------------------------------------------------------------------------

    async def apply(self, model: str, release_id: str, happened: Input | None, *, cause_id: str = "") -> Release | None:
        """Take notice of an input (None: only do what is due), publish what follows, and hand over the model's place.

        A release that does not exist is nobody's business: None.
        """
        cause = happened.cause_id or happened.id if happened else cause_id or release_id
        lock = self._locks.setdefault(release_id, asyncio.Lock())
        async with lock:
            written = await self._write(model, release_id, happened, cause)
            if written is None:
                structlog.get_logger().info("no such release", model=model, release=release_id)
                return None
            release, left_over = written
            await self._drain(release, left_over)
        if release.finished is not None:
            await self._strike_out(release, cause)
        elif deadlines.awaited_step(release) == "queue":
            await self._supersede_older(release, cause)
        return release

    async def open(self, model: str) -> None:
        """Create the release record of the model's last admission, if that was not done yet."""
        entry = await self._out.models.get(model_record(model))
        opened = entry.value.opening if entry else None
        if opened is None or await self._out.releases.get(release_record(model, opened.release_id)) is not None:
            return
        decision = releases.open_release(opened, cause_id=opened.source_event_id, now=self._out.clock.now())
        try:
            await self._out.releases.create(release_record(model, opened.release_id), decision.release)
        except Conflict:
            return  # another replica was faster, with the same record

    async def _write(
        self, model: str, release_id: str, happened: Input | None, cause: str
    ) -> tuple[Release, frozenset[str]] | None:
        """Decide and write; give the record, and the keys that were in its outbox before."""
        for _ in range(_ATTEMPTS):
            entry = await self._out.releases.get(release_record(model, release_id))
            if entry is None:
                return None
            release = entry.value
            if happened is not None:
                release = releases.decide(release, happened, self._out.clock.now()).release
            release = await self._fulfil(release, cause)
            left_over = frozenset(one.key for one in entry.value.outbox)
            if release == entry.value:
                return release, left_over
            try:
                await self._out.releases.update(release_record(model, release_id), release, entry.revision)
            except Conflict:
                continue
            return release, left_over
        raise Transient("bus_unavailable", f"The record of {release_id} kept changing.")

    async def _fulfil(self, release: Release, cause: str) -> Release:
        """Do what the release needs from the registry itself: its manifest, and its place beyond registration."""
        now = self._out.clock.now()
        if release.manifest is None and release.finished is None:
            manifest = versions.plan_manifest(release, now)
            if manifest is not None:
                ref = await self._out.artifacts.put_version(manifest)
                written = Input(f"{release.id}/manifest", now, ManifestWritten(ref=ref), cause)
                release = releases.decide(release, written, now).release
        if deadlines.awaited_step(release) == "queue":
            slot = await self._claim(release)
            if slot is not None:
                release = releases.decide(release, Input(f"{release.id}/slot", now, slot, cause), now).release
        return release

    async def _drain(self, release: Release, left_over: frozenset[str]) -> None:
        """Publish the outbox, then clear it.

        What an earlier process left may have been published before it died, longer ago than the dedupe window
        remembers: that is looked up in the log, so that each fact is there once.
        """
        pending = release.outbox
        if not pending:
            return
        for outgoing in pending:
            emit, since = _emit(release, outgoing), release.emitted[outgoing.key]
            if outgoing.key not in left_over or not await self._out.publisher.was_published(emit, since):
                await self._out.publisher.publish(emit)
        failpoint("registry.after_publish")
        key = release_record(release.model, release.id)
        for _ in range(_ATTEMPTS):
            entry = await self._out.releases.get(key)
            if entry is None:
                return
            cleared = releases.without_published(entry.value, pending)
            if cleared == entry.value:
                return
            try:
                await self._out.releases.update(key, cleared, entry.revision)
            except Conflict:
                continue
            return

    # -- models -----------------------------------------------------------------------------------------------------

    async def model(self, model: str) -> Entry[ModelRecord]:
        """Read a model's record, made if need be."""
        for _ in range(_ATTEMPTS):
            entry = await self._out.models.get(model_record(model))
            if entry is not None:
                return entry
            try:
                fresh = ModelRecord(model=model)
                return Entry(fresh, await self._out.models.create(model_record(model), fresh))
            except Conflict:
                continue
        raise Transient("bus_unavailable", f"The record of {model} kept changing.")

    async def reserve(self, entry: Entry[ModelRecord], record: ModelRecord) -> bool:
        """Write a model's record with a new reservation; False when somebody else wrote it since."""
        try:
            await self._out.models.update(model_record(record.model), record, entry.revision)
        except Conflict:
            return False
        return True

    async def _claim(self, release: Release) -> SlotGranted | None:
        for _ in range(_ATTEMPTS):
            entry = await self.model(release.model)
            record = versions.claim(entry.value, release.id)
            if record == entry.value or await self.reserve(entry, record):
                break
        else:
            raise Transient("bus_unavailable", f"The record of {release.model} kept changing.")
        if record.occupant != release.id:
            return None
        route = await self._out.routes.get(release.model)
        return versions.decide_slot(release, route.value if route else None, await self._base(release))

    async def _base(self, release: Release) -> BaseManifest:
        key = admission.base_key(release.opened.base)
        base = await self._out.artifacts.find_base(key) if key else None
        if base is None:
            raise Permanent("unknown_base", f"The base model {release.opened.base.name} is not in the store any more.")
        return base

    async def _strike_out(self, release: Release, cause: str) -> None:
        """Take a finished release out of the model's record, and wake the one that gets its place."""
        for _ in range(_ATTEMPTS):
            entry = await self.model(release.model)
            record = versions.leave(entry.value, release.id)
            if record == entry.value:
                return
            if await self.reserve(entry, record):
                break
        if record.occupant is not None and record.occupant != entry.value.occupant:
            await self.apply(release.model, record.occupant, None, cause_id=cause)

    async def _supersede_older(self, newer: Release, cause: str) -> None:
        record = (await self.model(newer.model)).value
        for release_id in filter(None, (record.occupant, *record.queue)):
            older = await self._out.releases.get(release_record(newer.model, release_id))
            if older is not None and versions.decide_superseded(record, newer, older.value):
                what = Superseded(by=newer.id)
                happened = Input(f"{release_id}/superseded/{newer.id}", self._out.clock.now(), what, cause)
                await self.apply(newer.model, release_id, happened)

    # -- sweeping ---------------------------------------------------------------------------------------------------

    async def models(self) -> list[str]:
        """List the models that have a record."""
        suffix = model_record("")
        return [key.removesuffix(suffix) for key in await self._out.models.keys() if key.endswith(suffix)]

    async def open_releases(self, model: str) -> tuple[str, ...]:
        """Finish the model's last admission, then list its releases that are not known to be finished."""
        await self.open(model)
        return (await self.model(model)).value.open

    async def sweep(self, model: str, release_id: str) -> None:
        """Do what is due for one release: its deadline, its outbox, its place, and the hand-over if it has ended."""
        entry = await self._out.releases.get(release_record(model, release_id))
        if entry is not None:
            await self.apply(model, release_id, self._overdue(entry.value), cause_id=f"{release_id}/sweep")

    def _overdue(self, release: Release) -> Input | None:
        step, at, now = deadlines.awaited_step(release), deadlines.deadline_at(release), self._out.clock.now()
        if step is None or at is None or now < at:
            return None
        return Input(f"{release.id}/deadline/{step}/{at.isoformat()}", now, DeadlineReached(step=step))


def _emit(release: Release, outgoing: Outgoing) -> Emit:
    return Emit(
        FACTS[outgoing.type].model_validate(outgoing.data),
        key=f"{release.id}:{outgoing.key}",
        model=release.model,
        correlation_id=release.id,
        environment="production",
        cause_id=outgoing.cause_id,
    )
