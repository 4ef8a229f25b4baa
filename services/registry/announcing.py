"""Admits announced checkpoints: per model in the order of the stream, so that a stuck one delays only its own model."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from contracts.envelope import Event
from contracts.facts import CheckpointReady, CheckpointRejected
from services.registry.domain import announcements
from services.registry.domain.announcements import (
    MOST_WAITING,
    UNKNOWN_ERROR_TRIES,
    Announcement,
    Announcements,
)
from services.registry.ledger import Outside
from shared.errors import Permanent, SlipwayError, Transient, translate
from shared.messaging.bus import Emit
from shared.messaging.delivery import backoff_s, given_up
from shared.runtime.failpoints import failpoint
from shared.storage.kv import Conflict

_ATTEMPTS = 50
Admit = Callable[[Event[CheckpointReady]], Awaitable[None]]


def announcements_record(model: str) -> str:
    """Return the key of the record of a model's announcements, in the bucket of releases."""
    return f"{model}.announcements"


class Admissions:
    """Writes each announcement into its model's record, and admits what is due there."""

    def __init__(self, outside: Outside, admit: Admit, *, try_s: float, wait_s: float) -> None:
        self._out = outside
        self._admit = admit
        self._try_s = try_s
        self._wait_s = wait_s
        self._running: dict[str, asyncio.Task[None]] = {}
        self._unwritten: dict[str, Announcement] = {}

    async def announced(self, event: Event[CheckpointReady], announcement: Announcement) -> None:
        """Write an announcement down and begin to admit it; return when it is settled or postponed, at most `wait_s`.

        From then on the message may be acknowledged: what is written down is admitted or rejected, whatever happens.
        Behind one of its model that is being admitted it is not waited for; other models' are next.
        """
        model = event.subject
        entry = await self._out.announcements.get(announcements_record(model))
        if entry is not None and not announcements.has_room(entry.value, announcement):
            waiting = len(entry.value.waiting)
            reason = f"{waiting} announcements of {model} wait; the limit is {MOST_WAITING}. Publish it later."
            await self._reject(model, announcement, Permanent("too_large", reason))
            await self._edit(model, lambda record: announcements.pass_over(record, announcement))
            return
        await self._edit(model, lambda record: announcements.add(record, announcement))
        failpoint("registry.after_announcement")
        running = self._running.get(model)
        if running is None or running.done():
            await asyncio.wait({self.start(model)}, timeout=self._wait_s)

    def start(self, model: str) -> "asyncio.Task[None]":
        """Return the task that admits what is due of a model; there is one at a time in this process."""
        running = self._running.get(model)
        if running is None or running.done():
            running = self._running[model] = asyncio.create_task(self._guarded(self._admit_due(model), model))
        return running

    async def start_all(self) -> None:
        """Begin to admit what is due of every model, without waiting for any of them."""
        self._running = {model: task for model, task in self._running.items() if not task.done()}
        suffix = announcements_record("")
        for key in await self._out.announcements.keys():
            if key.endswith(suffix):
                self.start(key.removesuffix(suffix))

    async def stop(self) -> None:
        """End what is under way; it begins again from the records."""
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _guarded(self, work: Coroutine[Any, Any, None], model: str) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 - the sweep begins again; other models must not notice
            structlog.get_logger().warning("could not admit", model=model, error=repr(error))

    async def _admit_due(self, model: str) -> None:
        while True:
            entry = await self._out.announcements.get(announcements_record(model))
            record = announcements.recall(entry.value, self._unwritten.get(model)) if entry else None
            one = announcements.due(record, self._out.clock.now()) if record else None
            if one is None or not await self._settled(model, one):
                return
            await self._edit(model, lambda record, one=one: announcements.settle(record, one))  # type: ignore[misc]

    async def _settled(self, model: str, one: Announcement) -> bool:
        """Admit or reject one announcement; False when it was postponed."""
        limit = asyncio.timeout(self._try_s)
        try:
            async with limit:
                await self._admit(await self._read(one))
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not hold up another model
            failure = _failure(self._too_late() if limit.expired() else error, one)
            if isinstance(failure, Transient):
                await self._postpone(model, one, failure)
                return False
            await self._reject(model, one, failure)
        return True

    async def _read(self, one: Announcement) -> Event[CheckpointReady]:
        event = await self._out.inbox.read(one.sequence)
        if event is None or event.id != one.event_id:
            raise Permanent("internal_error", f"Message {one.sequence} of the inbox is gone, or is another one.")
        return event

    def _too_late(self) -> Transient:
        reason = f"Admission took longer than {self._try_s:g} s; the object store does not answer in time."
        return Transient("store_unavailable", reason)

    async def _postpone(self, model: str, one: Announcement, failure: Transient) -> None:
        wait_s = backoff_s(one.tries + 1)
        structlog.get_logger().warning(
            "announcement will be tried again",
            model=model,
            sequence=one.sequence,
            code=failure.code,
            reason=failure.reason,
            delay_s=wait_s,
        )
        noted: Any = {"code": failure.code, "reason": failure.reason, "wait_s": wait_s, "now": self._out.clock.now()}
        self._unwritten[model] = announcements.failed_try(one, **noted)
        await self._edit(model, lambda record: announcements.postpone(record, one, **noted))
        del self._unwritten[model]

    async def _reject(self, model: str, one: Announcement, failure: SlipwayError) -> None:
        structlog.get_logger().error(
            "announcement rejected", model=model, sequence=one.sequence, code=failure.code, reason=failure.reason
        )
        fact = CheckpointRejected(code=failure.code, reason=failure.sentence(), details=failure.details)
        emit = Emit(
            fact, model=model, correlation_id=one.correlation_id, environment=one.environment, cause_id=one.event_id
        )
        if not await self._out.publisher.was_published(emit, one.stored_at):
            await self._out.publisher.publish(emit)

    async def _edit(self, model: str, change: Callable[[Announcements], Announcements]) -> None:
        key = announcements_record(model)
        for _ in range(_ATTEMPTS):
            entry = await self._out.announcements.get(key)
            before = entry.value if entry else Announcements(model=model)
            after = change(before)
            if after == before:
                return
            try:
                if entry is None:
                    await self._out.announcements.create(key, after)
                else:
                    await self._out.announcements.update(key, after, entry.revision)
            except Conflict:
                continue
            return
        raise Transient("bus_unavailable", f"The record {key} kept changing.")


def _failure(error: Exception, one: Announcement) -> SlipwayError:
    """Return what a failed try means: Transient for another try, Permanent for a rejection."""
    known = translate(error)
    if isinstance(known, Transient):
        return given_up(known, one.tries + 1) or known
    if known is not None:
        return known
    reason = f"{type(error).__name__}: {error}."[:2000]
    tried = one.tries + 1 >= UNKNOWN_ERROR_TRIES
    return Permanent("internal_error", reason) if tried else Transient("internal_error", reason)
