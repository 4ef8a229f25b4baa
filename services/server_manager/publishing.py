"""Publishes what the fleet's record has in its outbox beside the reconcile loop, which a silent log must not delay."""

import asyncio

import structlog

from services.server_manager.fleet_state import FleetState
from shared.errors import SlipwayError
from shared.runtime.tasks import end_tasks


class BackgroundPublisher:
    """Publishes the outbox of one record, one time after the other. What fails is due again at the next pass."""

    def __init__(self, state: FleetState) -> None:
        self._state = state
        self._task: asyncio.Task[None] | None = None
        self._due = False
        self._slow = False
        self._log = structlog.get_logger()

    def publish_soon(self) -> None:
        """Begin to publish; what is decided while that lasts is published after it."""
        self._due = True
        if self._task is None:
            self._slow = False
            self._task = asyncio.create_task(self._publish(), name="publish the outbox")
            self._task.add_done_callback(self._ended)

    async def wait(self, limit_s: float) -> None:
        """Wait until all is published, for at most `limit_s`, and only once for a log that took longer."""
        if self._task is not None and not self._slow:
            _, pending = await asyncio.wait([self._task], timeout=limit_s)
            self._slow = bool(pending)

    async def stop(self) -> None:
        """Cancel what is being published: it stays in the outbox."""
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
