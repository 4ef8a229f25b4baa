"""Keeps promoted versions under lock in the store: at their promotion, and as long as a rollback could go to them."""

import asyncio
import contextlib
from collections.abc import Callable
from datetime import timedelta

import structlog

from contracts.facts import TrafficRequested
from contracts.routes import Route
from contracts.vocabulary import Deployable, Target
from decisions.object_versions import Disturbance
from services.registry.domain import locks
from services.registry.domain.locks import KeptVersion, ModelLocks
from services.registry.ports import LockedObjects, Lookup
from services.registry.settings import RegistrySettings
from shared.errors import translate
from shared.messaging.records import RecordStore
from shared.runtime.clock import Clock

_LEAST_LEASE_S = 120.0
"""Longer than the sweeper lets one model take, so that no other process begins meanwhile."""
_NOTE_S = 2.0


def locks_key(model: str) -> str:
    """Return the key of the record of a model's locks, in the same bucket as its releases."""
    return f"{model}.locks"


class VersionLocks:
    """Locks of all models; several registries look after each model in turns."""

    def __init__(
        self,
        objects: LockedObjects,
        records: RecordStore[ModelLocks],
        routes: Lookup[Route],
        settings: RegistrySettings,
        *,
        owner: str,
        clock: Clock,
    ) -> None:
        self._objects, self._records, self._routes = objects, records, routes
        self._wait_s = settings.lock_wait_s
        self._lease = timedelta(seconds=max(_LEAST_LEASE_S, 1.5 * settings.lock_sweep_s))
        self._owner, self._clock = owner, clock
        self._locked: set[Deployable] = set()

    async def before_traffic(self, order: TrafficRequested) -> None:
        """Put what an order for traffic makes active under lock; return after `lock_wait_s` at the latest.

        Traffic never fails for it: what was not locked is noted with the reason, and the next sweep locks it.
        """
        for deployable in (order.target, order.fallback):
            if deployable is not None and deployable not in self._locked:
                await self._lock_in_time(deployable)

    async def _lock_in_time(self, deployable: Deployable) -> None:
        target = deployable.target
        try:
            async with asyncio.timeout(self._wait_s):
                version = await self._objects.lock([deployable])
            self._locked.add(deployable)
        except Exception as error:  # noqa: BLE001 - whatever it is, a promotion does not wait for a lock
            known = translate(error)
            late = f"the store did not lock it within {self._wait_s:g} s"
            why = late if isinstance(error, TimeoutError) else known.reason if known is not None else repr(error)
            structlog.get_logger().warning("a target takes traffic without a lock", target=str(target), why=why)
            version = KeptVersion(version=target.version, reason=f"Not locked at its promotion: {why}")
        with contextlib.suppress(Exception):  # the next sweep writes it
            async with asyncio.timeout(_NOTE_S):
                await self._edit(target.model, lambda record: locks.note_version(record, version))

    async def sweep(self, model: str) -> None:
        """Lock, renew and inspect what is kept of a model; raise an alert about what was disturbed, and repair it."""
        entry = await self._routes.get(model)
        kept = locks.kept_versions(entry.value if entry is not None else None)
        if not kept and await self._records.read(locks_key(model)) is None:
            return
        record = await self._edit(
            model, lambda record: locks.claim(record, self._owner, self._clock.now(), self._lease)
        )
        if record.owner != self._owner:
            return
        disturbed = await self._objects.inspect(kept) if kept else []
        if disturbed:
            await self._edit(model, lambda record: locks.open_alerts(record, _by_target(disturbed), self._clock.now()))
        left = await self._repair(model, [what for _, what in disturbed])
        lost = [each.key for each in left if each.lost]
        versions = [await self._objects.lock(served, lost) for served in kept.values()]
        if kept:
            await self._objects.renew(kept)
        still = {target for target, what in disturbed if what in left}

        def note(record: ModelLocks) -> ModelLocks:
            return locks.note_versions(locks.close_alerts(record, still, self._clock.now()), versions)

        await self._edit(model, note)

    async def _repair(self, model: str, disturbances: list[Disturbance]) -> list[Disturbance]:
        unlike = list(dict.fromkeys(disturbances))
        return await self._objects.repair(model, unlike) if unlike else []

    async def _edit(self, model: str, decide: Callable[[ModelLocks], ModelLocks]) -> ModelLocks:
        def decide_or_begin(record: ModelLocks | None) -> ModelLocks:
            return decide(record or ModelLocks(model=model))

        return await self._records.transact(locks_key(model), decide_or_begin)


def _by_target(disturbed: list[tuple[Target, Disturbance]]) -> dict[Target, list[Disturbance]]:
    grouped: dict[Target, list[Disturbance]] = {}
    for target, what in disturbed:
        grouped.setdefault(target, []).append(what)
    return grouped
