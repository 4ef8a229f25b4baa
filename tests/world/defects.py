"""Defects as they are found in review: each is put in by replacing one function, to see that the world finds it."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from decisions.evidence import candidates, observation
from decisions.routes import edits
from services.registry.admissions import Admissions
from services.registry.domain import plan
from services.server_manager import manager
from services.server_manager.domain import reconcile
from shared.errors import Permanent, Transient
from shared.messaging import delivery
from shared.messaging.bus import Bus
from shared.messaging.bus_clock import BusClock
from shared.messaging.records import RecordStore
from tests.world.fate import Fault
from tests.world.story import replaced

Defect = tuple[Any, str, Any]


def outbox_cleared_first() -> Defect:
    """What a record has to publish is cleared before it is published."""

    async def publish_in_turn(self: Any, key: str, entry: Any) -> Any:
        left = await self._edit(key, lambda record: record and record.model_copy(update={"outbox": ()}), known=entry)
        for pending in entry.value.outbox if entry else ():
            await self._publish_one(key, pending)
        return left.value if left else None

    return RecordStore, "_publish_in_turn", publish_in_turn


def failed_publish_is_dropped() -> Defect:
    """A fact that the log does not take is left out."""
    publish = Bus.publish

    async def publish_or_not(self: Any, emit: Any, cause: Any = None) -> Any:
        with contextlib.suppress(Transient):
            return await publish(self, emit, cause)

    return Bus, "publish", publish_or_not


def epochs_stand_still() -> Defect:
    """An edit of a route does not raise its epoch."""
    original: Callable[..., dict[str, Any]] = edits._next
    return edits, "_next", lambda route, cause_id: {**original(route, cause_id), "epoch": route.epoch}


def passing_errors_give_up() -> Defect:
    """A failure that passes ends a message at its first try."""
    return delivery, "given_up", lambda error, _deliveries: Permanent("retries_exhausted", error.reason)


def sides_swapped() -> Defect:
    """The active version's outcomes count for the canary, and the canary's for the active one."""
    original = candidates.add_beside
    return observation, "add_beside", lambda state, candidate, active: original(state, active, candidate)


def own_clock_decides() -> Defect:
    """Alerts and orders are as old as the machine's own clock shows (before 69de92c0)."""
    return BusClock, "now", lambda self: self._clock.now()


def announcement_not_written_down() -> Defect:
    """An announcement is admitted from memory: its message is acknowledged at once."""

    async def receive(self: Any, model: str, announcement: Any) -> None:
        async def later() -> None:
            await asyncio.sleep(1.0)
            await self._write_down(model, announcement)
            self.start(model)

        self._kept = asyncio.ensure_future(later())

    return Admissions, "receive", receive


def previous_is_not_kept() -> Defect:
    """The version to roll back to is not kept loaded."""
    original = reconcile.plan_desired

    def without_previous(routes: Any, record: Any) -> Any:
        cut = {model: route.model_copy(update={"previous": None}) for model, route in routes.items()}
        return original(cut, record)

    return manager, "plan_desired", without_previous


def approval_is_not_awaited() -> Defect:
    """A release that a person must approve takes traffic without that."""
    return plan, "is_approved", lambda _release, _digest: True


def shadow_is_not_awaited() -> Defect:
    """A candidate takes traffic before its shadow showed enough."""
    return plan, "passed_shadow", lambda _release: True


DEFECTS: tuple[tuple[Callable[[], Defect], int, tuple[Fault, ...] | None], ...] = (
    (epochs_stand_still, 0, None),
    (previous_is_not_kept, 0, None),
    (failed_publish_is_dropped, 0, (Fault("log full", 8.0, seconds=25.0),)),
    (passing_errors_give_up, 0, (Fault("store away", 1.0, seconds=30.0),)),
    (outbox_cleared_first, 1, (Fault("kill", service="registry", change=20),)),
    (sides_swapped, 3, ()),
    (own_clock_decides, 12, (Fault("clock jumps", 5.0, "rollback-controller", seconds=900.0),)),
    (approval_is_not_awaited, 1, ()),
    (shadow_is_not_awaited, 11, ()),
    (announcement_not_written_down, 1, (Fault("kill at", 0.5, "registry"),)),
)
"""Each with a seed that finds it, and with these faults in the place of the seed's own."""


@contextlib.contextmanager
def put_back(defect: Callable[[], Defect]) -> Iterator[None]:
    """Put a defect back for a while."""
    with replaced(*defect()):
        yield
