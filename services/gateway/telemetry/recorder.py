"""Collects one record per request and publishes them in batches; it never blocks a request."""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from contracts.facts import Inference, InferenceBatch, MirroredPair
from contracts.vocabulary import Environment
from services.gateway.ports import TelemetrySink
from shared.errors import Transient

_RETRY_S = 0.5


@dataclass(frozen=True)
class _Pending:
    batch: InferenceBatch
    model: str
    environment: Environment
    id: str


class Recorder:
    """A bounded queue in front of the bus: if it is full, the oldest record is dropped and counted.

    Attributes:
        problem: why nothing can be published now; None if it works.
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
        """Add a record, or a pair; return at once."""
        if len(self._records) == self._records.maxlen:
            self._on_drop()
        self._records.append(record)
        if len(self._records) >= self._batch:
            self._full.set()

    async def run(self) -> None:
        """Publish for ever: whenever a batch is full or the interval has passed."""
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
        """Publish all records; raise Transient, without losing any, if the bus is unavailable.

        A batch that can never be published is dropped and counted; those behind it are others'.
        """
        while self._unsent or self._records:
            if not self._unsent:
                self._make_batches()
            pending = self._unsent[0]
            # With the same id, so that a batch whose acknowledgement was lost is not counted twice.
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
