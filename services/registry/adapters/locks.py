"""Puts objects of versions under lock in the S3 store, keeps them there, and removes what was written over them."""

import asyncio
import contextvars
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import structlog

from contracts.manifests import LockedObject, VersionLock
from contracts.vocabulary import Deployable, Target
from decisions.object_versions import Disturbance, ObjectVersion, Pinned, assess_object, candidates
from decisions.provenance import Problem
from services.registry.adapters.lock_contents import Contents, Needed
from services.registry.adapters.retentions import Retentions
from services.registry.domain.locks import Kept, KeptVersion
from services.registry.settings import RegistrySettings
from shared.errors import Permanent, Transient
from shared.provenance.envelopes import Attester, Trust
from shared.provenance.lock_records import Locks, lock_key, lock_prefix, open_lock, read_locks, sign_lock
from shared.runtime.clock import Clock
from shared.runtime.failpoints import failpoint
from shared.storage.object_lock import LockingStore
from shared.storage.objects import AlreadyExists

_REQUESTS = 8
"""Requests about objects of one model at the same time."""
_MODELS = 4
"""Models whose objects are looked at at the same time."""
_ATTEMPTS = 5
T = TypeVar("T")
R = TypeVar("R")


class StoredLocks:
    """Objects under lock (implements `ports.LockedObjects`).

    The store is synchronous: calls go through threads, one at a time for each model. A call that was given up continues
    in its thread, and the next one of that model waits for its end.
    """

    def __init__(
        self, store: LockingStore, settings: RegistrySettings, clock: Clock, attester: Attester, trust: Trust
    ) -> None:
        """Take the store, how long things are kept, and the key that signs records with the list that it is in."""
        self._store, self._clock, self._attester, self._trust = store, clock, attester, trust
        self._retentions = Retentions(store, settings, clock)
        self._models = ThreadPoolExecutor(_MODELS, thread_name_prefix="lock")
        self._requests = ThreadPoolExecutor(_REQUESTS, thread_name_prefix="lock-request")
        self._running: dict[str, Future[Any]] = {}

    async def lock(self, served: Sequence[Deployable], lost: Iterable[str] = ()) -> KeptVersion:
        """Put what a version needs under lock, as far as it is not; return what is known then.

        Args:
            served: Targets of the version.
            lost: Objects whose locked version is not there any more; another one takes its place.
        """
        return await self._run(served[0].target.model, lambda: self._lock(served, frozenset(lost)))

    async def inspect(self, kept: Kept) -> list[tuple[Target, Disturbance]]:
        """Return what was done to objects under lock of these versions of a model."""
        return await self._run(_model_of(kept), lambda: self._inspect(kept))

    async def repair(self, model: str, disturbances: Sequence[Disturbance]) -> list[Disturbance]:
        """Remove what lies over locked versions; return what could not be repaired."""
        return await self._run(
            model, lambda: [disturbance for disturbance in disturbances if not self._repair(disturbance)]
        )

    async def renew(self, kept: Kept) -> list[tuple[Target, Disturbance]]:
        """Extend every retention of which less than half of the period is left; return what cannot be kept."""
        return await self._run(_model_of(kept), lambda: self._renew(kept))

    async def _run(self, model: str, call: Callable[[], T]) -> T:
        while (running := self._running.get(model)) is not None and not running.done():
            await asyncio.wait([asyncio.wrap_future(running)])
        future = self._running[model] = self._models.submit(contextvars.copy_context().run, call)
        return await asyncio.shield(asyncio.wrap_future(future))

    # -- in a thread ---------------------------------------------------------------------------------------------------

    def _lock(self, served: Sequence[Deployable], lost: frozenset[str]) -> KeptVersion:
        target, why = served[0].target, self._store.why_unlocked()
        if why is not None:
            return KeptVersion(version=target.version, reason=why)
        for _ in range(_ATTEMPTS):
            locks = self._read(target)
            pins = locks.pins
            contents = Contents(self._store.pinned(pins), self._trust.keys())
            needed = [content for content in contents.of(served) if content.key not in pins or content.key in lost]
            objects, missing = self._choose(needed)
            objects, refused = self._retain(target.model, objects)
            failpoint("registry.lock_after_retention")
            if objects:
                try:
                    self._record(target, locks.next, objects)
                except AlreadyExists:
                    continue  # another registry was first
                except Permanent as error:
                    return KeptVersion(version=target.version, reason=error.reason)
            count = len(pins.keys() - locks.own.keys() | {locked.key for locked in objects})
            problems = [*contents.problems, *(f"{key} is not there." for key in missing), *refused]
            problems += self._weaker(pins)
            return KeptVersion(version=target.version, objects=count, reason=" ".join(problems))
        reason = f"{lock_prefix(target.model, target.version)} changed {_ATTEMPTS} times while a record was written."
        raise Transient("store_unavailable", reason)

    def _weaker(self, pins: Mapping[str, Sequence[str]]) -> list[str]:
        count = self._retentions.count_weaker((key, version) for key, versions in pins.items() for version in versions)
        why = "the store lets no lock become stricter; docs/operations.md has the command."
        return [f"{count} objects stay in governance mode: {why}"] if count else []

    def _read(self, target: Target) -> Locks:
        """Return a version's records; raise Permanent while the list of keys cannot be read: all would be foreign."""
        return read_locks(self._store, self._trust.keys(), target.model, target.version)

    def _retain(self, model: str, objects: Sequence[LockedObject]) -> tuple[list[LockedObject], list[str]]:
        """Return which objects are kept, and why others are not."""
        errors = self._each(lambda locked: self._retentions.keep(model, locked.key, locked.version_id), objects)
        kept = [locked for locked, error in zip(objects, errors, strict=True) if error is None]
        return kept, [
            Disturbance(locked.key, unkept=error.reason).describe()
            for locked, error in zip(objects, errors, strict=True)
            if error is not None
        ]

    def _record(self, target: Target, number: int, objects: Sequence[LockedObject]) -> None:
        """Write the record of what was locked, signed and under lock itself.

        Raises:
            AlreadyExists: Another registry was first.
            Permanent: The key of this registry is not listed, or counts no more: readers would ignore the record.
        """
        retention = self._retentions.begin()
        record = VersionLock(
            model=target.model,
            version=target.version,
            number=number,
            mode=retention.mode,
            objects=tuple(objects),
            locked_at=self._clock.now(),
        )
        key, data = lock_key(target.model, target.version, number), sign_lock(self._attester, record)
        signed = open_lock(data, self._trust.keys(), key)
        if isinstance(signed, Problem):
            raise Permanent(signed.code, f"{key} is not written: {signed.reason}")
        self._store.create(key, data, retention)

    def _choose(self, needed: Sequence[Needed]) -> tuple[list[LockedObject], list[str]]:
        """Return the version of each object that is locked, and the keys of which there is none."""
        versions = self._each(self._first_version, needed)
        chosen = [
            LockedObject(key=content.key, version_id=version)
            for content, version in zip(needed, versions, strict=True)
            if version is not None
        ]
        return chosen, [content.key for content, version in zip(needed, versions, strict=True) if version is None]

    def _first_version(self, needed: Needed) -> str | None:
        ids = candidates(self._store.versions(needed.key), needed.key, needed.size_bytes)
        if len(ids) < 2 or needed.digest is None or needed.size_bytes is None:
            return ids[0] if ids else None
        size = needed.size_bytes
        return next(
            (version_id for version_id in ids if self._store.digest(needed.key, version_id, size) == needed.digest),
            None,
        )

    def _inspect(self, kept: Kept) -> list[tuple[Target, Disturbance]]:
        disturbed: list[tuple[Target, Disturbance]] = []
        looked_at: dict[Pinned, Disturbance | None] = {}
        for served in kept.values():
            target = served[0].target
            locks = self._read(target)
            objects = [Pinned(key, versions) for key, versions in locks.pins.items()]
            fresh = [located for located in objects if located not in looked_at]
            looked_at |= dict(zip(fresh, self._each(self._look_at, fresh), strict=True))
            disturbed += [(target, what) for located in objects if (what := looked_at[located]) is not None]
            disturbed += [(target, Disturbance(key, over, foreign=True)) for key, over in locks.foreign.items()]
        return disturbed

    def _look_at(self, pinned: Pinned) -> Disturbance | None:
        latest = self._store.latest_version(pinned.key)
        versions: Sequence[ObjectVersion] = ()
        if latest not in pinned.versions:
            versions = self._store.versions(pinned.key)
        return assess_object(pinned, latest, versions)

    def _repair(self, disturbance: Disturbance) -> bool:
        log = structlog.get_logger().bind(object=disturbance.key)
        if disturbance.lost:
            log.error("an object under lock is lost: no version of it that was locked is there")
            return False
        for version in disturbance.over:
            try:
                self._store.remove_version(disturbance.key, version)
            except Permanent as error:
                log.warning("what lies over or among objects under lock stays", version=version, why=error.reason)
                return False
            log.warning("what lay over or among objects under lock was removed", version=version)
        return True

    def _renew(self, kept: Kept) -> list[tuple[Target, Disturbance]]:
        model, why = _model_of(kept), self._store.why_unlocked()
        pins = {targets[0].target: self._read(targets[0].target).pins for targets in kept.values()}
        if why is not None:
            return [(target, Disturbance(min(locked), unkept=why)) for target, locked in pins.items() if locked]
        ids = sorted(
            {(key, version) for locked in pins.values() for key, versions in locked.items() for version in versions}
        )
        self._retentions.forget_others(model, frozenset(ids))
        refused: dict[str, str] = {}
        for (key, _), error in zip(
            ids, self._each(lambda object_version: self._retentions.keep(model, *object_version), ids), strict=True
        ):
            if error is not None and error.code != "artifact_not_found":  # the inspection finds what is lost
                refused[key] = error.reason
        return [
            (target, Disturbance(key, unkept=refused[key]))
            for target, locked in pins.items()
            for key in sorted(locked.keys() & refused.keys())
        ]

    def _each(self, call: Callable[[T], R], items: Sequence[T]) -> list[R]:
        return list(self._requests.map(call, items))


def _model_of(kept: Mapping[int, Sequence[Deployable]]) -> str:
    return next(iter(kept.values()))[0].target.model
