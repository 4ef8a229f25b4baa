"""Background tasks of the reconcile loop: lease renewal, publishing, verification before traffic.

A slow bus or store there delays neither the engines nor the lease.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection

import structlog

from decisions.releases.provenance import Problem
from services.server_manager.adapters.kv_state import KvLeadership
from services.server_manager.domain.answer_types import ApplyOrder, RefuseOrder
from services.server_manager.fleet_state import FleetState
from services.server_manager.ports import Artifacts
from shared.errors import SlipwayError, translate
from shared.runtime.tasks import end_tasks

RENEW_EVERY_S = 1.0
LIMIT_S = 60.0
"""Longest renewal for one pass: a longer pass hangs, and another process should lead."""


@contextlib.asynccontextmanager
async def renewing(lead: KvLeadership) -> AsyncIterator[None]:
    """Renew the lease every second during the block, for at most `LIMIT_S`; a lost lease is not reacquired."""
    task = asyncio.create_task(_renew(lead), name="renew the lease")
    try:
        yield
    finally:
        await end_tasks([task], again_s=RENEW_EVERY_S)
        if not task.cancelled() and task.exception() is not None:
            structlog.get_logger().warning("renewing the lease failed", error=repr(task.exception()))


async def _renew(lead: KvLeadership) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LIMIT_S):
            while True:
                await asyncio.sleep(RENEW_EVERY_S)
                await lead.confirm()


class BackgroundPublisher:
    """Publishes the outbox of one record, one task at a time; after a failure, the next pass retries."""

    def __init__(self, state: FleetState) -> None:
        self._state = state
        self._task: asyncio.Task[None] | None = None
        self._due = False
        self._slow = False
        self._log = structlog.get_logger()

    def publish_soon(self) -> None:
        """Start publishing in the background; a running task publishes again afterwards."""
        self._due = True
        if self._task is None:
            self._slow = False
            self._task = asyncio.create_task(self._publish(), name="publish the outbox")
            self._task.add_done_callback(self._ended)

    async def wait(self, limit_s: float) -> None:
        """Wait up to `limit_s` for the running publication of the outbox.

        If an earlier wait for this publication timed out, return at once.
        """
        if self._task is not None and not self._slow:
            _, pending = await asyncio.wait([self._task], timeout=limit_s)
            self._slow = bool(pending)

    async def stop(self) -> None:
        """Cancel the running publication; its facts stay in the outbox."""
        if self._task is not None:
            await end_tasks([self._task])

    async def _publish(self) -> None:
        while self._due:
            self._due = False
            try:
                await self._state.publish()
            except SlipwayError as error:
                self._log.warning("publishing postponed", code=error.code, reason=error.reason)
                return

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and task.exception() is not None:
            self._log.error("publishing failed unexpectedly", exc_info=task.exception())


class TrafficProofs:
    """Verifies the target of each traffic order in the background, so that a slow store delays only that order."""

    def __init__(self, artifacts: Artifacts, on_verdict: Callable[[], None]) -> None:
        """Set the verifier, and the callback for each finished verification."""
        self._artifacts = artifacts
        self._on_verdict = on_verdict
        self._checks: dict[str, asyncio.Task[Problem | None]] = {}

    def assess(self, answer: ApplyOrder) -> ApplyOrder | RefuseOrder | None:
        """Return the answer if the order's target may take traffic, else a refusal; None until verified."""
        order = answer.order
        check = self._checks.get(order.order_id)
        if check is None:
            check = asyncio.create_task(self._artifacts.assess_traffic(order.event.data.target))
            self._checks[order.order_id] = check
            check.add_done_callback(lambda _: self._on_verdict())
        if not check.done():
            return None
        error = check.exception() if not check.cancelled() else asyncio.CancelledError()
        if error is not None:
            del self._checks[order.order_id]
            known = translate(error) if isinstance(error, Exception) else None
            structlog.get_logger().warning(
                "a target could not be verified before traffic; it is tried again",
                order=order.order_id,
                code=known.code if known is not None else "internal_error",
                error=repr(error),
            )
            return None
        problem = check.result()
        return answer if problem is None else RefuseOrder(order, problem.code, problem.reason)

    def keep_only(self, order_ids: Collection[str]) -> None:
        """Cancel and drop the verifications of all other orders."""
        for order_id in self._checks.keys() - set(order_ids):
            self._checks.pop(order_id).cancel()
