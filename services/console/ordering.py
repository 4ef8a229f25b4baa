"""Checks people's rights, publishes their orders, and waits for the outcome."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

from contracts.facts import (
    ApprovalDenied,
    ApprovalGranted,
    CanaryAdvanced,
    Fact,
    ReleaseCancelled,
    ReleaseHeld,
    RollbackOrdered,
)
from contracts.routes import Route
from contracts.vocabulary import Target
from decisions.routes.rollback_plan import plan_rollback
from services.console.domain.order_data import OrderAnswer, RollbackPlan
from services.console.domain.people import ORDERS, Person
from services.console.domain.release_data import Release
from services.console.ports import Orders, Routes
from services.console.queries.orders import answer_to
from services.console.queries.reading import Reader
from shared.errors import Permanent
from shared.runtime.clock import Clock

VALID: Final = timedelta(minutes=15)
TRY_S: Final = 0.1
_VERBS: Final = {"rollback": "roll back", "hold": "pause or resume"}


class NotAllowedError(Exception):
    """The person may not give this order, for the reason in the message."""


class Ordering:
    """Publishes orders on behalf of people who may give them.

    Args:
        orders: Publishes an order as a person.
        routes: Current production routes.
        index: The index, for the outcomes of orders.
        clock: The clock.
        answer_s: Seconds to wait until an outcome is indexed.
    """

    def __init__(self, orders: Orders, routes: Routes, index: Reader, clock: Clock, answer_s: float) -> None:
        self._orders, self._routes, self._index, self._clock = orders, routes, index, clock
        self._answer_s = answer_s

    def now(self) -> datetime:
        """Return the time."""
        return self._clock.now()

    async def approve(self, person: Person, release: Release, digest: str, *, epoch: int, reason: str) -> OrderAnswer:
        """Approve a release by digest and route epoch; the order is void once the route has changed."""
        self._check(person, "approve", release.model)
        fact = ApprovalGranted(
            release_id=release.release_id,
            manifest_digest=digest,
            reason=reason,
            expires_at=self._clock.now() + VALID,
            epoch=epoch,
        )
        return await self._publish(person, release.model, fact, release.release_id)

    async def reject(self, person: Person, release: Release, reason: str) -> OrderAnswer:
        """Reject a release that waits for approval."""
        self._check(person, "reject", release.model)
        fact = ApprovalDenied(
            release_id=release.release_id, reason=_required(reason), expires_at=self._clock.now() + VALID
        )
        return await self._publish(person, release.model, fact, release.release_id)

    async def cancel(self, person: Person, release: Release, reason: str) -> OrderAnswer:
        """Cancel a release."""
        self._check(person, "cancel", release.model)
        fact = ReleaseCancelled(
            release_id=release.release_id, reason=_required(reason), expires_at=self._clock.now() + VALID
        )
        return await self._publish(person, release.model, fact, release.release_id)

    async def hold(self, person: Person, release: Release, reason: str, *, paused: bool) -> OrderAnswer:
        """Pause or resume a release before its next step."""
        self._check(person, "hold", release.model)
        fact = ReleaseHeld(
            release_id=release.release_id, paused=paused, reason=reason, expires_at=self._clock.now() + VALID
        )
        return await self._publish(person, release.model, fact, release.release_id)

    async def promote(self, person: Person, release: Release, *, share: float, epoch: int, reason: str) -> OrderAnswer:
        """Advance a candidate without a verdict on its share (0: shadow); void once the route has changed."""
        self._check(person, "promote", release.model)
        fact = CanaryAdvanced(
            release_id=release.release_id,
            weight_ratio=share,
            reason=_required(reason),
            expires_at=self._clock.now() + VALID,
            epoch=epoch,
        )
        return await self._publish(person, release.model, fact, release.release_id)

    async def plan_rollback(self, model: str, failed: Target | None) -> RollbackPlan:
        """Return the effect of a rollback now, without ordering it."""
        route = await self.route_of(model)
        target = failed or (route.active.target if route.active is not None else None)
        if target is None:
            refused = {"code": "not_in_traffic", "reason": f"Nothing serves {model}."}
            return RollbackPlan(model=model, failed="", epoch=route.epoch, refused=refused)
        return RollbackPlan.model_validate(plan_rollback(route, target, None))

    async def roll_back(self, person: Person, failed: Target, *, epoch: int, reason: str) -> OrderAnswer:
        """Order a rollback; void once the route has changed since its plan was shown."""
        self._check(person, "rollback", failed.model)
        fact = RollbackOrdered(
            reason=_required(reason),
            failed=failed,
            expires_at=self._clock.now() + VALID,
            epoch=epoch,
        )
        return await self._publish(person, failed.model, fact, None)

    async def route_of(self, model: str) -> Route:
        """Return a model's current route; empty if there is none."""
        return await self._routes.get(model) or Route(model=model)

    @staticmethod
    def _check(person: Person, order: str, model: str) -> None:
        if person.may(order, model):
            return
        if order in person.orders:
            raise NotAllowedError(f"{person.name} may not act on {model}: it is not of team {person.team}.")
        why = person.hint or f"it takes a role that may publish {ORDERS[order].TYPE.removeprefix('slipway.')}"
        raise NotAllowedError(f"{person.name} may not {_VERBS.get(order, order)} {model}: {why}.")

    async def _publish(self, person: Person, model: str, fact: Fact, release_id: str | None) -> OrderAnswer:
        event = await self._orders.publish(person.name, model, fact, release_id)
        entries = await wait_for(lambda: answer_to(self._index, event.id), self._answer_s)
        return entries or OrderAnswer(order_id=event.id, state="published")


async def wait_for(look: Callable[[], Any], limit_s: float) -> Any:
    """Return the first result of `look`; None after `limit_s` seconds without one."""
    deadline = asyncio.get_running_loop().time() + limit_s
    entries = None
    while entries is None and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(TRY_S)
        entries = await asyncio.to_thread(look)
    return entries


def _required(reason: str) -> str:
    """Return a reason, stripped.

    Raises:
        Permanent: The reason is empty.
    """
    text = reason.strip()
    if not text:
        raise Permanent("malformed_event", "The order has no reason: write why, for those who read the record.")
    return text
