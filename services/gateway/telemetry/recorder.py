"""Telemetry records on their way to the bus: text features are added, then batches are published.

Both steps have bounded queues and never block a request.
"""

import asyncio
import itertools
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import structlog

from contracts.facts import Inference, InferenceBatch, MirroredPair
from contracts.vocabulary import Environment
from services.gateway.domain.excerpts import Described, Excerpts
from services.gateway.domain.request_rates import may_take
from services.gateway.domain.routing import fraction
from services.gateway.ports import Describer, Pause, TelemetrySink
from shared.errors import Transient
from shared.runtime.clock import Clock

Skipped = Literal["queue_full", "late", "failed", "form"]
"""Why a sampled answer's record lacks features; `form`: lacks only the format validation."""
_FIXED_CHARS = 256
"""Added to the characters of an entry's texts."""
_RETRY_S = 0.5


@dataclass(frozen=True)
class QueueLimits:
    """Limits of the feature queue.

    Attributes:
        sample_ratio: share of answers that get features; drills and staging always do.
        language_ratio: share of those answers with language detection.
        max_chars: maximum waiting characters; an eighth is reserved for key holders with few.
        batch: maximum records per call of the describer.
        interval_s: how long texts are collected for a batch.
        max_wait_s: a record that waited longer is published without features, before the monitor's window closes.
    """

    sample_ratio: float = 1.0
    language_ratio: float = 1.0
    max_chars: int = 4_000_000
    batch: int = 64
    interval_s: float = 0.02
    max_wait_s: float = 3.0


@dataclass(frozen=True)
class _Waiting:
    record: Inference | MirroredPair
    texts: tuple[Excerpts, ...]
    since_s: float

    @property
    def chars(self) -> int:
        return sum(_FIXED_CHARS + texts.chars for texts in self.texts)


class FeatureQueue:
    """Adds features to records before publication; a record that cannot wait is published without features."""

    def __init__(
        self,
        describer: Describer,
        emit: Callable[[Inference | MirroredPair], None],
        *,
        limits: QueueLimits,
        clock: Clock,
        pause: Pause,
        on_skip: Callable[[Skipped], None],
    ) -> None:
        self._describer = describer
        self._emit = emit
        self._limits = limits
        self._clock = clock
        self._pause = pause
        self._on_skip = on_skip
        self._waiting: deque[_Waiting] = deque()
        self._taken: list[_Waiting] = []
        self._chars: Counter[str] = Counter()
        self._filled = asyncio.Event()

    def submit(self, record: Inference | MirroredPair, *texts: Excerpts, draw_id: str) -> None:
        """Queue a record of complete answers for publication, with features if it is sampled; return at once.

        Args:
            record: a record or pair without features.
            texts: excerpts of the answer; for a pair, of the served and the mirrored answer.
            draw_id: the gateway's id of the request, from which the sample is drawn.
        """
        if not self._is_sampled(record, draw_id):
            self._emit(record)
            return
        if fraction(f"{draw_id}|language") >= self._limits.language_ratio:
            texts = tuple(replace(each, asked="") for each in texts)
        entry, limit = _Waiting(record, texts, self._clock.monotonic()), self._limits.max_chars
        own, used = self._chars[texts[0].holder], self._chars.total()
        if used + entry.chars > limit or not may_take(own, used, entry.chars, limit):
            self._skip(entry, "queue_full")
            return
        self._waiting.append(entry)
        self._chars[texts[0].holder] += entry.chars
        self._filled.set()

    async def run(self) -> None:
        """Process the queue until cancelled."""
        while True:
            await self._filled.wait()
            await self._pause(self._limits.interval_s)
            await self.describe_batch()

    async def describe_batch(self) -> None:
        """Add features to at most one batch of waiting records, and publish them."""
        self._taken = batch = self._take()
        described = iter(await self._describer.describe([texts for entry in batch for texts in entry.texts]))
        self._taken = []
        for entry in batch:
            told = [next(described) for _ in entry.texts]
            for each in told:
                if each is None or not each.is_judged:
                    self._on_skip("failed" if each is None else "form")
            self._emit(_add_features(entry.record, told))

    def drain(self) -> None:
        """Publish all waiting records without features, at shutdown."""
        for entry in (*self._taken, *self._waiting):
            self._skip(entry, "late")
        self._taken = []
        self._waiting.clear()
        self._chars.clear()
        self._filled.clear()

    def _take(self) -> list[_Waiting]:
        """Remove one batch from the queue; overdue records are published without features.

        Answers with long schemas come last, so that slow validation delays no others.
        """
        batch: list[_Waiting] = []
        oldest_s = self._clock.monotonic() - self._limits.max_wait_s
        while self._waiting and len(batch) < self._limits.batch:
            entry = self._waiting.popleft()
            self._chars[entry.texts[0].holder] -= entry.chars
            if entry.since_s < oldest_s:
                self._skip(entry, "late")
            else:
                batch.append(entry)
        if not self._waiting:
            self._chars.clear()
            self._filled.clear()
        return sorted(batch, key=lambda entry: len(entry.texts[0].form))

    def _is_sampled(self, record: Inference | MirroredPair, draw_id: str) -> bool:
        """Return whether a record gets features."""
        if any(side.drill is not None or side.environment == "staging" for side in _sides(record)):
            return True
        return fraction(f"{draw_id}|features") < self._limits.sample_ratio

    def _skip(self, entry: _Waiting, reason: Skipped) -> None:
        for _ in entry.texts:
            self._on_skip(reason)
        self._emit(entry.record)


def _sides(record: Inference | MirroredPair) -> tuple[Inference, ...]:
    return (record,) if isinstance(record, Inference) else (record.served, record.mirrored)


def _add_features(record: Inference | MirroredPair, described: Sequence[Described | None]) -> Inference | MirroredPair:
    """Return a record with the features of its texts; None leaves a side unchanged."""
    served, *mirrored = (
        side.model_copy(update={"features": told.features}) if told is not None else side
        for side, told in zip(_sides(record), described, strict=True)
    )
    return record.model_copy(update={"served": served, "mirrored": mirrored[0]}) if mirrored else served


@dataclass(frozen=True)
class _Pending:
    batch: InferenceBatch
    model: str
    environment: Environment
    id: str


class Recorder:
    """A bounded queue before the bus; if full, the oldest record is dropped and counted.

    Attributes:
        problem: why publishing fails now; None if it works.
    """

    def __init__(
        self,
        sink: TelemetrySink,
        *,
        gateway: str,
        queue: int,
        batch: int,
        interval_s: float,
        on_drop: Callable[[], None],
    ) -> None:
        self._sink = sink
        self._gateway = gateway
        self._records: deque[Inference | MirroredPair] = deque(maxlen=queue)
        self._batch = batch
        self._interval_s = interval_s
        self._on_drop = on_drop
        self._numbers = itertools.count()
        self._unsent: deque[_Pending] = deque()
        self._full = asyncio.Event()
        self.problem: str | None = None

    def record(self, record: Inference | MirroredPair) -> None:
        """Queue a record or a pair; a full queue drops its oldest."""
        if len(self._records) == self._records.maxlen:
            self._on_drop()
        self._records.append(record)
        if len(self._records) >= self._batch:
            self._full.set()

    async def run(self) -> None:
        """Publish until cancelled, whenever a batch is full or the interval has passed."""
        while True:
            try:
                async with asyncio.timeout(self._interval_s):
                    await self._full.wait()
            except TimeoutError:
                pass
            try:
                await self.flush()
                self.problem = None
            except Transient as error:
                # Logged, because without telemetry a bad version is not detected.
                if self.problem is None:
                    structlog.get_logger().warning("telemetry waits for the bus", error=str(error))
                self.problem = str(error)
                await asyncio.sleep(_RETRY_S)
            except Exception as error:  # noqa: BLE001 - records that fit no batch must not end all telemetry
                structlog.get_logger().error("telemetry batch lost", error=repr(error))

    async def flush(self) -> None:
        """Publish all records; if the bus is unavailable, raise Transient and keep them.

        A batch that fails for another reason is dropped and counted.
        """
        while self._unsent or self._records:
            if not self._unsent:
                self._make_batches()
            pending = self._unsent[0]
            # A retry has the same id: a lost acknowledgement does not duplicate the batch.
            try:
                await self._sink.publish(
                    pending.batch, model=pending.model, environment=pending.environment, batch_id=pending.id
                )
            except Transient:
                raise
            except Exception as error:  # noqa: BLE001 - one bad batch must not end all telemetry
                self._note_loss(pending, error)
            self._unsent.popleft()

    def _note_loss(self, lost: _Pending, error: Exception) -> None:
        for _ in (*lost.batch.records, *lost.batch.pairs):
            self._on_drop()
        structlog.get_logger().error("telemetry batch lost", model=lost.model, error=repr(error))

    def _make_batches(self) -> None:
        """Move records from the queue into one batch per model and environment."""
        groups: dict[tuple[str, Environment], tuple[list[Inference], list[MirroredPair]]] = {}
        for _ in range(min(self._batch, len(self._records))):
            record = self._records.popleft()
            served = record.served if isinstance(record, MirroredPair) else record
            records, pairs = groups.setdefault((served.target.model, served.environment), ([], []))
            if isinstance(record, MirroredPair):
                pairs.append(record)
            else:
                records.append(record)
        if len(self._records) < self._batch:
            self._full.clear()
        for (model, environment), (records, pairs) in groups.items():
            batch = InferenceBatch(gateway=self._gateway, records=tuple(records), pairs=tuple(pairs))
            batch_id = f"{self._gateway}-{next(self._numbers)}"
            self._unsent.append(_Pending(batch, model, environment, batch_id))
