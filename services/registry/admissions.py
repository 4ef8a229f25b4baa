"""Admits announced checkpoints in stream order per model, so that a stuck checkpoint delays only its own model."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from contracts.envelope import Event
from contracts.facts import CheckpointReady, CheckpointRejected
from services.registry.domain import announcements
from services.registry.domain.announcements import UNKNOWN_ERROR_TRIES, Announcement, Announcements
from services.registry.ports import Ports, announcements_key
from services.registry.team_use import TeamUse
from shared.errors import Permanent, SlipwayError, Transient, translate
from shared.messaging.delivery import RECORD_FAILURES, RECORD_LIMIT_S, backoff_s, given_up
from shared.runtime.clock import Clock
from shared.runtime.failpoints import failpoint

Admit = Callable[[Event[CheckpointReady]], Awaitable[None]]


class NotItsTurn(Exception):  # noqa: N818 - it is an answer, not a failure: the announcement waits
    """The announcement waits, because other releases of its team come first."""


class Admissions:
    """Records each announcement for its model, and admits those that are due.

    Args:
        ports: The registry's ports.
        clock: The clock.
        admit: Opens the release of a checkpoint; raises Permanent to reject it.
        team_use: Use of the teams' quotas.
        try_s: Seconds that one attempt to admit a checkpoint may take.
        wait_s: Seconds that the next message waits for a running admission.
        record_wait_s: Seconds that messages are redelivered while a model's record is unavailable.
    """

    def __init__(
        self,
        ports: Ports,
        clock: Clock,
        admit: Admit,
        team_use: TeamUse,
        *,
        try_s: float,
        wait_s: float,
        record_wait_s: float = RECORD_LIMIT_S,
    ) -> None:
        self._ports = ports
        self._clock = clock
        self._admit = admit
        self._team_use = team_use
        self._try_s = try_s
        self._wait_s = wait_s
        self._record_wait_s = record_wait_s
        self._unusable_since_s: dict[str, float] = {}  # in memory: the affected record cannot be written
        self._running: dict[str, asyncio.Task[None]] = {}
        self._unwritten: dict[str, Announcement] = {}

    async def receive(self, model: str, announcement: Announcement) -> None:
        """Record an announcement and start its admission; return once it ends, after `wait_s` at the latest.

        The message may be acknowledged on return: a recorded announcement is admitted or rejected even after a restart.
        An announcement behind a running admission of its model is recorded without waiting, so other models continue.

        Raises:
            Transient: The announcement was not recorded, and its message must be redelivered.
            Permanent: The model's record has been unavailable for `record_wait_s`, and would block all models.
        """
        if not await self._write_down(model, announcement):
            return
        failpoint("registry.after_announcement")
        running = self._running.get(model)
        if running is None or running.done():
            await asyncio.wait({self.start(model)}, timeout=self._wait_s)

    async def _write_down(self, model: str, announcement: Announcement) -> bool:
        """Record an announcement; return False if it was rejected instead."""
        now, refusal = self._clock.now(), None
        async with self._team_use.announcing(model) as (team, elsewhere):
            counted = team is not None and team.quota.announcements_per_minute is not None

            def decide(record: Announcements) -> Announcements:
                nonlocal refusal
                refusal = announcements.assess_receipt(record, announcement, team, elsewhere)
                if refusal is None:
                    return announcements.add(record, announcement, counted=counted)
                refused = rejection(Permanent(refusal.code, refusal.reason, **refusal.details))
                return announcements.turn_away(record, announcement, refused, now)

            await self._note(model, decide)
        return refusal is None

    async def _note(self, model: str, decide: Callable[[Announcements], Announcements]) -> None:
        try:
            await self._edit(model, decide)
        except Transient as error:
            if error.code not in RECORD_FAILURES:
                raise
            now_s = self._clock.monotonic()
            waited_s = now_s - self._unusable_since_s.setdefault(model, now_s)
            if waited_s < self._record_wait_s:
                raise
            raise Permanent(error.code, error.reason, **error.details) from error
        self._unusable_since_s.pop(model, None)

    async def models(self) -> list[str]:
        """Return the models that have a record of announcements."""
        suffix = announcements_key("")
        keys = await self._ports.announcements.keys()
        return [key.removesuffix(suffix) for key in keys if key.endswith(suffix)]

    async def sweep(self, model: str) -> None:
        """Start the admission of a model's due announcements, without waiting for it."""
        self._running = {name: task for name, task in self._running.items() if not task.done()}
        self.start(model)

    def start(self, model: str) -> "asyncio.Task[None]":
        """Return the task that admits a model's due announcements; start one if none is running."""
        running = self._running.get(model)
        if running is None or running.done():
            running = self._running[model] = asyncio.create_task(self._guarded(self._admit_due(model), model))
        return running

    async def stop(self) -> None:
        """Cancel the running admissions; they resume from their records."""
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _guarded(self, work: Coroutine[Any, Any, None], model: str) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 - the sweep begins again; other models must not notice
            structlog.get_logger().warning("checkpoint could not be admitted", model=model, error=repr(error))

    async def _admit_due(self, model: str) -> None:
        while True:
            record = await self._ports.announcements.publish(announcements_key(model))
            recalled = announcements.recall(record, self._unwritten.get(model)) if record else None
            announcement = announcements.due(recalled, self._clock.now()) if recalled else None
            if announcement is None or not await self._settle(model, announcement):
                return

    async def _settle(self, model: str, announcement: Announcement) -> bool:
        """Admit or reject an announcement; return False if it was postponed or must wait for its team's turn."""
        limit = asyncio.timeout(self._try_s)
        try:
            async with limit:
                await self._admit(await self._read(announcement))
        except NotItsTurn:
            return False
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not hold up another model
            failure = assess_failure(self._too_late() if limit.expired() else error, announcement)
            if isinstance(failure, Transient):
                await self._postpone(model, announcement, failure)
                return False
            await self._reject(model, announcement, failure)
            return True
        await self._edit(model, lambda record: announcements.settle(record, announcement))
        return True

    async def _read(self, announcement: Announcement) -> Event[CheckpointReady]:
        event = await self._ports.inbox.read(announcement.sequence)
        if event is None or event.id != announcement.event_id:
            reason = (
                f"Message {announcement.sequence} of the inbox is lost or was replaced; publish the checkpoint again."
            )
            raise Permanent("internal_error", reason)
        return event

    def _too_late(self) -> Transient:
        reason = f"Admission took longer than {self._try_s:g} s; the object store does not answer in time."
        return Transient("store_unavailable", reason)

    async def _postpone(self, model: str, announcement: Announcement, failure: Transient) -> None:
        wait_s = backoff_s(announcement.tries + 1)
        structlog.get_logger().warning(
            "announcement will be tried again",
            model=model,
            sequence=announcement.sequence,
            code=failure.code,
            reason=failure.reason,
            delay_s=wait_s,
        )
        noted: Any = {"code": failure.code, "reason": failure.reason, "wait_s": wait_s, "now": self._clock.now()}
        self._unwritten[model] = announcements.failed_try(announcement, **noted)
        await self._edit(model, lambda record: announcements.postpone(record, announcement, **noted))
        del self._unwritten[model]

    async def _reject(self, model: str, announcement: Announcement, failure: SlipwayError) -> None:
        structlog.get_logger().error(
            "announcement rejected",
            model=model,
            sequence=announcement.sequence,
            code=failure.code,
            reason=failure.reason,
        )
        now = self._clock.now()
        await self._edit(model, lambda record: announcements.reject(record, announcement, rejection(failure), now))

    async def _edit(self, model: str, decide: Callable[[Announcements], Announcements]) -> None:
        await self._ports.announcements.transact(
            announcements_key(model), lambda record: decide(record or Announcements(model=model))
        )


def rejection(error: SlipwayError) -> CheckpointRejected:
    """Return the `checkpoint.rejected` fact for an error."""
    return CheckpointRejected(code=error.code, reason=error.sentence(), details=error.details)


def assess_failure(error: Exception, announcement: Announcement) -> SlipwayError:
    """Return the error of a failed admission: Transient to retry it, Permanent to reject the checkpoint."""
    known = translate(error)
    if isinstance(known, Transient):
        return given_up(known, announcement.tries + 1) or known
    if known is not None:
        return known
    reason = f"{type(error).__name__}: {error}."[:2000]
    last_try = announcement.tries + 1 >= UNKNOWN_ERROR_TRIES
    return Permanent("internal_error", reason) if last_try else Transient("internal_error", reason)
