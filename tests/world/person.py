"""An operator: approves what waits for approval, and gives the orders of a seed as `slipway` would."""

import asyncio
import itertools
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from nats.js.api import RawStreamMsg

from contracts.facts import (
    ApprovalGranted,
    ApprovalRequested,
    DrillFault,
    DrillOrdered,
    Fact,
    QuarantineLifted,
    ReleaseCancelled,
    ReleaseFinished,
    ReleaseHeld,
    ReleaseOpened,
    RollbackOrdered,
)
from shared.messaging.publishing import publish_event
from tests.kit import fakes_registry as k
from tests.world.fate import Fault

if TYPE_CHECKING:
    from tests.world.world import World

THINKS_S = (1.0, 20.0)


class Person:
    """An operator with a connection that nothing disturbs.

    Attributes:
        orders: The type of each order, by its id.
        approved: The releases that were approved.
        cancelled: The releases that were ordered to end.
        against: The versions that were ordered out of traffic, cancelled, or drilled.
    """

    def __init__(self, world: "World") -> None:
        self._world, self._numbers = world, itertools.count()
        self._asked: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.orders: dict[str, str] = {}
        self.approved: set[str] = set()
        self.cancelled: set[str] = set()
        self.against: set[int] = set()
        world.server.stored.append(self._note)

    def _note(self, message: RawStreamMsg) -> None:
        if ApprovalRequested.TYPE in (message.subject or ""):
            self._asked.put_nowait(json.loads(message.data or b"")["data"])

    async def approve(self) -> None:
        """Approve each release that asks for it, some seconds later, for ever."""
        while True:
            asked = await self._asked.get()
            await asyncio.sleep(self._world.fate.noise.uniform(*THINKS_S))
            self.approved.add(asked["release_id"])
            await self._order(ApprovalGranted(release_id=asked["release_id"], manifest_digest=asked["manifest_digest"]))

    async def act(self, fault: Fault) -> None:
        """Publish the order of a seed, if there is anything to give it about."""
        route, now = self._world.checks.route, self._world.clock.true_time()
        match fault.kind:
            case "person pauses" if release_id := self._open_release()[0]:
                await self._order(ReleaseHeld(release_id=release_id, paused=True, reason="wait"))
                await asyncio.sleep(fault.seconds)
                await self._order(ReleaseHeld(release_id=release_id, paused=False, reason="go on"))
            case "person cancels" if (opened := self._open_release())[0]:
                self.cancelled.add(opened[0])
                self.against.add(opened[1])
                await self._order(ReleaseCancelled(release_id=opened[0], reason="not today"))
            case "person rolls back" if route is not None and route.in_traffic:
                failed = route.in_traffic[-1].target
                self.against.add(failed.version)
                await self._order(RollbackOrdered(reason="looks odd", failed=failed, epoch=route.epoch))
            case "person drills" if route is not None and route.active is not None:
                target, until = route.active.target, now + timedelta(seconds=fault.seconds)
                self.against.add(target.version)
                drill = DrillFault(error_ratio=1.0)
                await self._order(
                    DrillOrdered(
                        reason="drill",
                        target=target,
                        fault=drill,
                        share_ratio=0.3,
                        expires_at=until,
                        environment="production",
                        epoch=route.epoch,
                    )
                )
            case "person lifts" if route is not None and route.quarantined:
                await self._order(QuarantineLifted(reason="mended", target=route.quarantined[0], epoch=route.epoch))

    def check_end(self) -> None:
        """Note the orders that nothing answered."""
        facts = [fact["data"] for _, fact in self._world.checks.facts]
        answered = {fact.get(name) for fact in facts for name in ("order_id", "cause_id")}
        for order_id, kind in self.orders.items():
            if order_id not in answered:
                self._world.violated(f"the order {order_id} ({kind}) has no answer")

    def _open_release(self) -> tuple[str, int]:
        """Return the id and the version of the last release that has not ended; an empty id without one."""
        checks = self._world.checks
        ended = {fact["release_id"] for fact in checks.of(ReleaseFinished)}
        opened = [fact for fact in checks.of(ReleaseOpened) if fact["release_id"] not in ended]
        return (opened[-1]["release_id"], opened[-1]["version"]) if opened else ("", 0)

    async def _order(self, fact: Fact) -> None:
        order_id = f"order-{next(self._numbers)}"
        self.orders[order_id] = fact.TYPE
        self._world.tell(f"a person orders {order_id}: {fact.TYPE}")
        event = k.event(fact, order_id, at=self._world.clock.true_time())
        await publish_event(self._world.js, event)  # type: ignore[arg-type]
