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
    ReleaseCancelled,
    ReleaseFinished,
    ReleaseHeld,
    ReleaseOpened,
    RollbackOrdered,
    Weights,
)
from contracts.vocabulary import Target
from shared.messaging.publishing import publish_event
from tests.kit import fakes_registry as k
from tests.world.fate import Fault

if TYPE_CHECKING:
    from tests.world.world import World

THINKS_S = (1.0, 20.0)
REFUSED = "refused"
"""The id of the event that announces a checkpoint without weights."""
WAITS_S = 60.0
"""How long a release has to go on before its orders are taken for lost."""


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
            case "checkpoint refused":  # its weights are not where it says
                gone = k.ready(weights=Weights(kind="lora", ref=k.ref(f"checkpoints/{k.MODEL}/gone.json")))
                await publish_event(self._world.js, k.event(gone, REFUSED, at=now))  # type: ignore[arg-type]
            case "person pauses" if opened := self._open_releases():
                release_id = opened[-1]["release_id"]
                await self._order(ReleaseHeld(release_id=release_id, paused=True, reason="wait"))
                await asyncio.sleep(fault.seconds)
                await self._order(ReleaseHeld(release_id=release_id, paused=False, reason="go on"))
            case "person cancels":
                await self._cancel(self._open_releases()[-1:])
            case "bucket lost" if fault.service == "servers":  # the fleet's orders, as the documentation says
                await self._cancel_waiting()
            case "person rolls back" if route is not None and route.in_traffic:
                failed = route.in_traffic[-1].target
                self.against.add(failed.version)
                await self._order(RollbackOrdered(reason="looks odd", failed=failed, epoch=route.epoch))
                await self._cancel_unserved(failed)
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
                await self._cancel_unserved(target)

    def check_end(self) -> None:
        """Note the orders that nothing answered."""
        for order_id in self.unanswered():
            self._world.violated(f"the order {order_id} ({self.orders[order_id]}) has no answer")

    def unanswered(self) -> list[str]:
        """Return the orders that nothing has answered."""
        facts = [fact["data"] for _, fact in self._world.checks.facts]
        answered = {fact.get(name) for fact in facts for name in ("order_id", "cause_id")}
        return [order_id for order_id in self.orders if order_id not in answered]

    def _open_releases(self) -> list[dict[str, Any]]:
        """Return the releases that have not ended, the last one at the end."""
        checks = self._world.checks
        ended = {fact["release_id"] for fact in checks.of(ReleaseFinished)}
        return [fact for fact in checks.of(ReleaseOpened) if fact["release_id"] not in ended]

    async def _cancel_unserved(self, baseline: Target) -> None:
        """Cancel what waits after a rollback for attached servers that may serve its baseline no more."""
        if self._world.fate.attached:
            await self._cancel_waiting(unless=baseline)

    async def _cancel_waiting(self, unless: Target | None = None) -> None:
        """Cancel the releases that are still open after `WAITS_S`, unless a target is active."""
        waiting = self._open_releases()
        await asyncio.sleep(WAITS_S)
        route = self._world.checks.route
        if route is None or route.active is None or route.active.target != unless:
            await self._cancel([opened for opened in waiting if opened in self._open_releases()])

    async def _cancel(self, releases: list[dict[str, Any]]) -> None:
        for opened in releases:
            self.cancelled.add(opened["release_id"])
            self.against.add(opened["version"])
            await self._order(ReleaseCancelled(release_id=opened["release_id"], reason="not today"))

    async def _order(self, fact: Fact) -> None:
        order_id = f"order-{next(self._numbers)}"
        self.orders[order_id] = fact.TYPE
        self._world.tell(f"a person orders {order_id}: {fact.TYPE}")
        event = k.event(fact, order_id, at=self._world.clock.true_time())
        await publish_event(self._world.js, event)  # type: ignore[arg-type]
