"""Sends what is due, model by model: claimed in the record first, so that no other process sends it meanwhile."""

import asyncio

import structlog

from services.notifier.domain import notices
from services.notifier.domain.notices import Due, Times
from services.notifier.domain.receivers import Receiver
from services.notifier.domain.record import ModelNotices
from services.notifier.metrics import NotifierMetrics
from services.notifier.ports import DeadLetters, Sender, SendFailedError
from shared.messaging.records import RecordStore
from shared.runtime.clock import Clock

LIST_ALL_S = 30.0
"""How often the records of all models are read, not only of those that something is known to be sent of."""


class Deliverer:
    """Sends notifications. What is lost between a try and its record is sent again, with the same id."""

    def __init__(
        self,
        *,
        records: RecordStore[ModelNotices],
        receivers: tuple[Receiver, ...],
        sender: Sender,
        letters: DeadLetters,
        metrics: NotifierMetrics,
        times: Times,
        clock: Clock,
    ) -> None:
        self._records, self._sender, self._letters = records, sender, letters
        self._receivers = receivers
        self._metrics, self._times, self._clock = metrics, times, clock
        self._listed_s: float | None = None

    async def models(self) -> list[str]:
        """Return the models that something may have to be sent of."""
        now_s = self._clock.monotonic()
        if self._listed_s is None or now_s - self._listed_s >= LIST_ALL_S:
            listed = await self._records.keys()
            self._listed_s = now_s
            return listed
        return self._metrics.waiting_models()

    async def deliver(self, model: str) -> None:
        """Send what is due of a model, to all receivers at the same time, and to each in the order of its queue."""
        due: list[Due] = []

        def claim(record: ModelNotices | None) -> ModelNotices | None:
            nonlocal due
            if record is None:
                return None
            record, due = notices.claim(record, self._receivers, self._clock.now(), self._times)
            return record

        await self._records.transact(model, claim)
        results = await asyncio.gather(
            *(self._send(model, notification) for notification in due), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _send(self, model: str, due: Due) -> None:
        receiver = next(candidate for candidate in self._receivers if candidate.name == due.receiver)
        try:
            await self._sender.send(due)
        except SendFailedError as error:
            await self._fail(model, due, receiver, str(error))
            return
        self._metrics.count(due.receiver, "sent")

        def finish(record: ModelNotices | None) -> ModelNotices | None:
            return record and notices.succeeded(record, due, receiver, self._clock.now(), self._times)

        await self._records.transact(model, finish)

    async def _fail(self, model: str, due: Due, receiver: Receiver, reason: str) -> None:
        now, gives_up = self._clock.now(), False
        record = await self._records.read(model)
        if record is not None:
            _, gives_up = notices.failed(record, due, receiver, now, self._times)
        log = structlog.get_logger().bind(alert=due.notice.alert.alert_id, receiver=due.receiver, reason=reason)
        queue = due.notice.queues.get(due.receiver, ())
        if gives_up:
            log.error("a notification was given up", transition=due.transition)
            await self._letters.store(model, due, attempts=queue[0].attempts if queue else 0, reason=reason)
        else:
            log.warning("a notification failed, will be tried again", transition=due.transition)
        self._metrics.count(due.receiver, "given_up" if gives_up else "failed")

        def note(record: ModelNotices | None) -> ModelNotices | None:
            return record and notices.failed(record, due, receiver, now, self._times)[0]

        await self._records.transact(model, note)
