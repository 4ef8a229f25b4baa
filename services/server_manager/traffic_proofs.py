"""Checks beside the reconcile loop, before a target takes traffic, that what its version requires is attested."""

import asyncio
from collections.abc import Callable, Collection

import structlog

from decisions.releases.provenance import Problem
from services.server_manager.domain.answer_types import ApplyOrder, RefuseOrder
from services.server_manager.ports import Artifacts
from shared.errors import translate


class TrafficProofs:
    """One check per traffic order. A store that does not answer delays the order, and nothing else."""

    def __init__(self, artifacts: Artifacts, on_verdict: Callable[[], None]) -> None:
        """Take what checks, and what is called when a verdict is there."""
        self._artifacts = artifacts
        self._on_verdict = on_verdict
        self._checks: dict[str, asyncio.Task[Problem | None]] = {}

    def assess(self, answer: ApplyOrder) -> ApplyOrder | RefuseOrder | None:
        """Return the answer if its target may take traffic, else a refusal; None while that is not known."""
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
        """Forget the checks of all other orders."""
        for order_id in self._checks.keys() - set(order_ids):
            self._checks.pop(order_id).cancel()
