"""Processes records of releases and models: applies inputs, takes the registry's own steps, starts the next release."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import structlog

from contracts.facts import CheckpointReady, CheckpointRejected, ReleaseOpened
from contracts.manifests import BaseManifest
from contracts.routes import Suspended
from services.registry.domain import admission, deadlines, releases, versions
from services.registry.domain.record import DeadlineReached, Input, ManifestWritten, Release, Superseded, TurnGranted
from services.registry.domain.versions import ModelRecord
from services.registry.ports import Ports, model_key, release_key
from shared.errors import Permanent, Transient, translate
from shared.messaging.delivery import given_up
from shared.runtime.clock import Clock

Leaving = Callable[[Release], AbstractAsyncContextManager[bool]]
"""Context that yields whether a release may leave its model's queue now; other releases of the team wait inside."""
STUCK_GRACE_S = 3600.0
"""Seconds that a release's sweeps may fail before its deadline ends it anyway.

Measured on the process's monotonic clock: a restart counts anew and only delays the end. The record cannot hold the
start: wall clocks differ between processes, and a failing sweep may be unable to write.
"""
_SWEEP_STEPS_S = 40.0
"""Seconds for the steps of one sweep; below the sweeper's limit, to leave time for the deadline."""


class ReleaseRecords:
    """Applies inputs to the records of releases and models."""

    def __init__(self, ports: Ports, clock: Clock, leaving: Leaving) -> None:
        """Set the ports, the clock, and the check whether a release may leave its model's queue."""
        self._ports, self._leaving = ports, leaving
        self._clock = clock
        self._stuck_since_s: dict[str, float] = {}

    # -- releases -----------------------------------------------------------------------------------------------------

    async def apply(self, model: str, release_id: str, received: Input | None, *, cause_id: str = "") -> Release | None:
        """Apply an input to a release (None: only due work), publish its facts, and start the next release if it ended.

        Each step is written before the next begins, so a later input or sweep continues after a crash. A permanent
        failure of the registry's own step ends the release.

        Returns:
            The release; None if it does not exist.
        """
        cause = (received.cause_id or received.id) if received else cause_id or release_id
        release = await self._decide(model, release_id, received)
        if release is None:
            structlog.get_logger().info("the event names an unknown release", model=model, release=release_id)
            return None
        release = await self._take_own_steps(release, cause)
        if release.finished is not None:
            await self._remove(release, cause)
        elif deadlines.awaited_step(release) == "queue":
            await self._supersede_older(release, cause)
        return release

    async def read(self, model: str, release_id: str) -> Release | None:
        """Return a release; None if it does not exist."""
        return await self._ports.releases.read(release_key(model, release_id))

    async def sweep(self, model: str, release_id: str) -> None:
        """Process a release's due work: outbox, manifest, entry in the model's record; then its deadline.

        The deadline comes last, so that a step does not expire because its preceding fact was late. A step that has
        failed for `STUCK_GRACE_S` does expire, to free the model.
        """
        try:
            async with asyncio.timeout(_SWEEP_STEPS_S):
                release = await self.apply(model, release_id, None, cause_id=f"{release_id}/sweep")
        except Exception:
            if not await self._expire_stuck(model, release_id):
                raise
            return
        self._stuck_since_s.pop(release_id, None)
        overdue = self._overdue(release) if release is not None else None
        if overdue is not None:
            await self.apply(model, release_id, overdue)

    async def _expire_stuck(self, model: str, release_id: str) -> bool:
        """End a release whose own steps kept failing beyond its deadline; return whether it ended.

        A release with unpublished facts does not end: the bus or other services may still need time.
        """
        now_s = self._clock.monotonic()
        since_s = self._stuck_since_s.setdefault(release_id, now_s)
        release = await self.read(model, release_id)
        overdue = self._overdue(release) if release is not None and not release.outbox else None
        if overdue is None or now_s - since_s < STUCK_GRACE_S:
            return False
        await self.apply(model, release_id, overdue)
        del self._stuck_since_s[release_id]
        return True

    async def _decide(self, model: str, release_id: str, received: Input | None) -> Release | None:
        now = self._clock.now()

        def decide(release: Release | None) -> Release | None:
            if release is None or received is None:
                return release
            return releases.decide(release, received, now).release

        return await self._ports.releases.transact(release_key(model, release_id), decide)

    async def _decide_own(
        self, release: Release, name: str, data: ManifestWritten | TurnGranted, cause: str
    ) -> Release:
        received = Input(f"{release.id}/{name}", self._clock.now(), data, cause)
        return await self._decide(release.model, release.id, received) or release

    async def _take_own_steps(self, release: Release, cause: str) -> Release:
        try:
            return await self._enter_progress(await self._register(release, cause), cause)
        except Exception as error:
            known = translate(error)
            if isinstance(known, Transient):
                known = given_up(known, 1)
            if not isinstance(known, Permanent):
                raise
            structlog.get_logger().error(
                "release failed permanently",
                model=release.model,
                release=release.id,
                code=known.code,
                reason=known.reason,
            )
            failed = CheckpointRejected(code=known.code, reason=known.reason, details=known.details)
            received = Input(f"{release.id}/failed", self._clock.now(), failed, cause)
            return await self._decide(release.model, release.id, received) or release

    async def _register(self, release: Release, cause: str) -> Release:
        """Write the version's manifest once its variants are known."""
        if release.manifest is not None or release.finished is not None:
            return release
        manifest = versions.plan_manifest(release, self._clock.now())
        if manifest is None:
            return release
        ref = await self._ports.artifacts.put_version(manifest)
        return await self._decide_own(release, "manifest", ManifestWritten(ref=ref), cause)

    async def _enter_progress(self, release: Release, cause: str) -> Release:
        """Put the release in progress or into its model's queue; grant its turn when its team may use the workers."""
        if deadlines.awaited_step(release) != "queue":
            return release
        record = await self._edit_model(release.model, lambda record: versions.claim(record, release.id))
        if record.in_progress != release.id:
            return release
        async with self._leaving(release) as is_its_turn:
            if not is_its_turn:
                return release  # the sweeper tries again
            route = await self._ports.routes.get(release.model)
            base, known = await self._base(release), route.value if route else None
            granted = versions.decide_turn(release, known, base, record.anchors)
            return await self._decide_own(release, "turn", granted, cause)

    async def _base(self, release: Release) -> BaseManifest:
        key = admission.base_key(release.opened.base)
        base = await self._ports.artifacts.find_base(key) if key else None
        if base is None:
            raise Permanent("unknown_base", f"The base model {release.opened.base.name} is not in the store any more.")
        return base

    async def _remove(self, release: Release, cause: str) -> None:
        """Remove a finished release from the model's record, and start the next one.

        If starting fails, the sweeper retries.
        """
        following: str | None = None

        def remove(record: ModelRecord) -> ModelRecord:
            nonlocal following
            after = versions.remove(record, release.id, published=not release.outbox)
            if release.id in record.open:  # otherwise noted by an earlier call
                after = versions.note_anchors(versions.note_end(after, release, self._clock.now()), release)
            following = after.in_progress if after.in_progress != record.in_progress else None
            return after

        await self._edit_model(release.model, remove)
        if following is None:
            return
        try:
            await self.apply(release.model, following, None, cause_id=cause)
        except Exception as error:  # noqa: BLE001 - whatever it is, it says nothing about the release that ended
            structlog.get_logger().warning(
                "the next release could not be started, the sweeper tries again",
                model=release.model,
                release=following,
                error=repr(error),
            )

    async def end_lost(self, model: str, release_id: str, cause: str) -> None:
        """End a release whose record was lost, so that other services free what they hold for it."""
        now = self._clock.now()
        await self._edit_model(model, lambda record: versions.end_lost(record, release_id, cause, now))

    async def _supersede_older(self, newer: Release, cause: str) -> None:
        record = await self.model(newer.model)
        for release_id in filter(None, (record.in_progress, *record.queue)):
            older = await self.read(newer.model, release_id)
            if older is not None and versions.decide_superseded(record, newer, older):
                superseded = Superseded(by=newer.id)
                received = Input(f"{release_id}/superseded/{newer.id}", self._clock.now(), superseded, cause)
                await self.apply(newer.model, release_id, received)

    def _overdue(self, release: Release) -> Input | None:
        step, at, now = deadlines.awaited_step(release), deadlines.deadline_at(release), self._clock.now()
        if step is None or at is None or now < at:
            return None
        return Input(f"{release.id}/deadline/{step}/{at.isoformat()}", now, DeadlineReached(step=step))

    # -- models -------------------------------------------------------------------------------------------------------

    async def models(self) -> list[str]:
        """Return the models that have a record."""
        suffix = model_key("")
        return [key.removesuffix(suffix) for key in await self._ports.models.keys() if key.endswith(suffix)]

    async def model(self, model: str) -> ModelRecord:
        """Return a model's record, empty for a new model; a lost record is rebuilt with an alert."""
        key = model_key(model)
        record = await self._ports.models.read(key)
        if record is not None:
            return record
        prefix = release_key(model, "")
        keys = await self._ports.releases.keys()
        ids = [record_key.removeprefix(prefix) for record_key in keys if record_key.startswith(prefix)]
        there = [await self.read(model, release_id) for release_id in ids if admission.is_release_id(release_id)]
        stored, opened = await self._ports.artifacts.versions_of(model), await self._ports.inbox.last_opened(model)
        releases = [release for release in there if release is not None]
        entry = await self._ports.routes.get(model)
        route = entry.value if entry is not None else None
        rebuilt = versions.rebuild(model, stored, opened, releases, route=route, now=self._clock.now())
        if not rebuilt.outbox:
            return rebuilt
        structlog.get_logger().error("the record of a model was lost", model=model, next_version=rebuilt.next_version)

        def begin(record: ModelRecord | None) -> ModelRecord:
            return record or rebuilt

        return await self._ports.models.transact(key, begin)

    async def sweep_model(self, model: str) -> None:
        """Rebuild a model's record if it was lost, and publish its outbox."""
        if (await self.model(model)).outbox:
            await self._ports.models.publish(model_key(model))

    async def open_releases(self, model: str) -> tuple[str, ...]:
        """Finish the model's last admission, and return its releases not known to be finished."""
        return (await self.finish_opening(model)).open

    async def finish_opening(self, model: str) -> ModelRecord:
        """Create the release of the model's last admission if it is missing; return the model's record."""
        record = await self.model(model)
        opened = record.opening
        if opened is not None and await self.read(model, opened.release_id) is None:
            opening = releases.open_release(opened, cause_id=opened.source_event_id, now=self._clock.now())
            key = release_key(model, opened.release_id)
            await self._ports.releases.transact(key, lambda release: release or opening.release)
        return record

    async def open_return(self, model: str, entry: Suspended, cause_id: str) -> None:
        """Open the release that brings a suspended version back, unless the version has an open release."""
        record = await self.finish_opening(model)
        version = entry.served.target.version
        original = None
        for release_id in (known for known, number in record.reservations.items() if number == version):
            release = await self.read(model, release_id)
            if release is not None and release.opened.returns is None:
                original = release.opened
        if original is None:
            structlog.get_logger().error("the release of a version is not known", model=model, version=version)
            return
        opened = versions.plan_return(record, entry, original)
        if opened is None or opened.release_id in record.reservations:
            return
        opening = releases.open_release(opened, cause_id=cause_id, now=self._clock.now())
        key = release_key(model, opened.release_id)
        await self._ports.releases.transact(key, lambda release: release or opening.release)
        await self._edit_model(model, lambda record: versions.add_return(record, opened))
        await self.apply(model, opened.release_id, None, cause_id=cause_id)

    async def publishers(self, record: ModelRecord, ready: CheckpointReady) -> tuple[str, ...]:
        """Return the earlier publishers of the same weights, among the model's newest releases."""
        named: list[str] = []
        for release_id in list(record.reservations)[-versions.REMEMBERED :]:
            release = await self.read(record.model, release_id)
            if release is not None and release.opened.weights.ref.digest == ready.weights.ref.digest:
                named += release.opened.publishers
        return tuple(dict.fromkeys(named))

    async def reserve(self, model: str, known: ModelRecord, opened: ReleaseOpened) -> bool:
        """Reserve a version for a release; return False if another admission was faster.

        The record holds a single opening, so the other admission's release must be created first.
        """
        reserved = False

        def reserve(record: ModelRecord) -> ModelRecord:
            nonlocal reserved
            reserved = (record.opening, record.next_version) == (known.opening, known.next_version)
            return versions.reserve(record, opened) if reserved else record

        await self._edit_model(model, reserve)
        return reserved

    async def _edit_model(self, model: str, decide: Callable[[ModelRecord], ModelRecord]) -> ModelRecord:
        begun = await self.model(model)

        def decide_or_begin(record: ModelRecord | None) -> ModelRecord:
            return decide(record or begun)

        return await self._ports.models.transact(model_key(model), decide_or_begin)
