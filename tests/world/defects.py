"""Defects that were in the product once, or nearly: each is put back by replacing one function, to see whether the world finds it."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from decisions.evidence import observation
from decisions.routes import edits
from services.registry.admissions import Admissions
from services.registry.release_records import ReleaseRecords
from services.server_manager import manager
from services.server_manager.answers import Answers
from shared.errors import Permanent, Transient
from shared.messaging import delivery
from shared.messaging.bus import Bus
from shared.messaging.bus_clock import BusClock
from shared.messaging.records import RecordStore
from shared.storage.kv import Bucket, Conflict
from tests.world.story import replaced

Defect = tuple[Any, str, Any]


def own_clock_decides() -> Defect:
    """Alerts and orders are as old as the machine's own clock says (69de92c0)."""
    return BusClock, "now", lambda self: self._clock.now()


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


def barred_may_return() -> Defect:
    """A target that was rolled back takes traffic again where an order says so."""
    return edits, "_why_barred", lambda _route, _target: None


def sweep_takes_no_steps() -> Defect:
    """A sweep of a release looks at its deadline alone."""

    async def sweep(self: Any, model: str, release_id: str) -> None:
        release = await self.read(model, release_id)
        overdue = self._overdue(release) if release is not None else None
        if overdue is not None:
            await self.apply(model, release_id, overdue)

    return ReleaseRecords, "sweep", sweep


def sides_swapped() -> Defect:
    """The active version's outcomes count for the canary, and the canary's for the active one."""
    original = observation.add_beside
    return observation, "add_beside", lambda state, candidate, active: original(state, active, candidate)


def passing_errors_give_up() -> Defect:
    """A failure that passes ends a message at its first try."""
    return delivery, "given_up", lambda error, _deliveries: Permanent("retries_exhausted", error.reason)


def previous_is_not_kept() -> Defect:
    """The version to roll back to is not kept loaded."""
    original = manager.plan_desired

    def plan(routes: Any, record: Any) -> Any:
        cut = {model: route.model_copy(update={"previous": None}) for model, route in routes.items()}
        return original(cut, record)

    return manager, "plan_desired", plan


def announcement_not_written_down() -> Defect:
    """An announcement is admitted from memory: its message is acknowledged at once."""

    async def receive(self: Any, model: str, announcement: Any) -> None:
        async def later() -> None:
            await asyncio.sleep(1.0)
            await self._write_down(model, announcement)
            self.start(model)

        self._kept = asyncio.ensure_future(later())

    return Admissions, "receive", receive


def lost_answer_is_a_conflict() -> Defect:
    """A write whose answer was lost counts as another writer's."""

    async def written_before(self: Any, key: str, data: bytes, revision: int) -> int | None:
        raise Conflict(key)

    return Bucket, "_written_before", written_before


def ended_release_leaves_its_canary() -> Defect:
    """An order of a release that ended meanwhile is carried out (3d9d8be9)."""

    async def wanted(self: Any, order: Any) -> bool:
        return True

    return Answers, "_is_wanted", wanted


def redelivered_orders_are_applied_twice() -> Defect:
    """Records know no facts that they applied."""
    return edits, "is_of", lambda _route, _epoch: True


DEFECTS = (
    own_clock_decides, outbox_cleared_first, failed_publish_is_dropped, epochs_stand_still, barred_may_return,
    sweep_takes_no_steps, sides_swapped, passing_errors_give_up, previous_is_not_kept, announcement_not_written_down,
    lost_answer_is_a_conflict, ended_release_leaves_its_canary, redelivered_orders_are_applied_twice,
)  # fmt: skip


@contextlib.contextmanager
def put_back(defect: Callable[[], Defect]) -> Iterator[None]:
    """Put a defect back for a while."""
    with replaced(*defect()):
        yield
