"""Keeps promoted versions under lock in the store: at their promotion, and as long as a rollback could go to them."""

import asyncio
import contextlib
import functools
from collections.abc import Callable
from datetime import timedelta

import structlog

from contracts.facts import TrafficRequested
from contracts.routes import Route
from contracts.vocabulary import Deployable, Target
from decisions.object_versions import Disturbance
from services.registry.domain import locks
from services.registry.domain.locks import Kept, KeptVersion, ModelLocks
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
        self._locked: dict[str, list[Deployable]] = {}  # they hold settings as dictionaries, so they have no hash

    async def before_traffic(self, order: TrafficRequested) -> None:
        """Put what an order for traffic makes active under lock; wait for all of it `lock_wait_s` at most.

        Traffic never fails for it: what was not locked is noted with the reason, and the next sweep locks it.
        """
        model = order.target.target.model
        locked = self._locked.setdefault(model, [])
        due = [
            deployable
            for deployable in (order.target, order.fallback)
            if deployable is not None and deployable not in locked
        ]
        if not due:
            return
        ends = asyncio.get_running_loop().time() + self._wait_s
        versions = [await self._lock_in_time(deployable, ends) for deployable in due]
        locked += [deployable for deployable, version in zip(due, versions, strict=True) if not version.reason]

        def note(record: ModelLocks) -> ModelLocks:
            return functools.reduce(locks.note_version, versions, record)

        with contextlib.suppress(Exception):  # the next sweep writes it
            async with asyncio.timeout(_NOTE_S):
                await self._edit(model, note)

    async def _lock_in_time(self, deployable: Deployable, ends: float) -> KeptVersion:
        target = deployable.target
        try:
            async with asyncio.timeout_at(ends):
                return await self._objects.lock([deployable])
        except Exception as error:  # noqa: BLE001 - whatever it is, a promotion does not wait for a lock
            known = translate(error)
            late = f"the store did not lock it within {self._wait_s:g} s"
            why = late if isinstance(error, TimeoutError) else known.reason if known is not None else repr(error)
            structlog.get_logger().warning("a target takes traffic without a lock", target=str(target), why=why)
            return KeptVersion(version=target.version, reason=f"Not locked at its promotion: {why}")

    async def sweep(self, model: str) -> None:
        """Lock, renew and inspect what is kept of a model; raise an alert about what was disturbed, and repair it."""
        entry = await self._routes.get(model)
        kept = locks.kept_versions(entry.value if entry is not None else None)
        self._forget_others(model, kept)
        if not kept and await self._records.read(locks_key(model)) is None:
            return
        record = await self._edit(
            model, lambda record: locks.claim(record, self._owner, self._clock.now(), self._lease)
        )
        if record.owner != self._owner:
            return
        unkept = await self._objects.renew(kept) if kept else []
        disturbed = await self._objects.inspect(kept) if kept else []
        alerted = [*disturbed, *unkept]
        if alerted:
            await self._edit(model, lambda record: locks.open_alerts(record, _by_target(alerted), self._clock.now()))
        left = await self._repair(model, [what for _, what in disturbed])
        lost = [disturbance.key for disturbance in left if disturbance.lost]
        versions = [await self._objects.lock(served, lost) for served in kept.values()]
        still = {target for target, what in alerted if what in left or what.unkept}

        def note(record: ModelLocks) -> ModelLocks:
            closed = locks.close_alerts(record, still, self._clock.now())
            return locks.note_versions(closed, locks.add_unkept(versions, unkept))

        await self._edit(model, note)

    def _forget_others(self, model: str, kept: Kept) -> None:
        served = [deployable for targets in kept.values() for deployable in targets]
        if left := [deployable for deployable in self._locked.pop(model, []) if deployable in served]:
            self._locked[model] = left

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
