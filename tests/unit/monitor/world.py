"""The monitor over the in-memory twin of its record store, in virtual time."""

from collections.abc import Sequence

from contracts.envelope import Event
from contracts.facts import Inference, InferenceBatch
from services.monitor.app import build, build_sweeper
from services.monitor.domain.record import MonitorState
from services.monitor.metrics import MonitorMetrics
from services.monitor.settings import MonitorSettings
from shared.messaging.bus import Bus
from shared.messaging.records import RecordStore
from shared.runtime.clock import Clock, SystemClock
from shared.runtime.settings import Connection
from testbed import factories as f
from tests.kit.records import MemoryPublisher, MemoryRecords
from tests.kit.virtual_time import VirtualClock
from tests.kit.wiring import Unwired

KEY = f"production.{f.MODEL}"


class World:
    """A monitor as `main` builds it, on a bus that is not connected."""

    def __init__(
        self, *, starts_s: float = 0.0, clock: Clock | None = None, references=None, reports=None, **settings
    ) -> None:
        self.records = MemoryRecords(MonitorState)
        self.publisher = MemoryPublisher("monitor", now_s=self.now_s)
        chosen = MonitorSettings(**settings)
        self.rules = chosen.rules()
        self.bus = Bus(Connection(), "monitor", SystemClock())
        metrics = MonitorMetrics(self.bus.metrics)
        self.monitor = build(
            self.bus,
            states=RecordStore(
                "alerts", self.records, self.publisher, service="monitor", boottime=self.now_s, note=metrics.note
            ),
            references=references or Unwired(),
            reports=reports or Unwired(),
            settings=chosen,
            metrics=metrics,
            clock=clock or VirtualClock(f.after(starts_s)),
        )
        self.sweeper = build_sweeper(self.monitor, chosen)

    def now_s(self) -> float:
        return self.monitor.clock.monotonic()


def batch(event_id: str, records: Sequence[Inference], seconds: float) -> Event[InferenceBatch]:
    """Return a batch of telemetry as it comes from the bus."""
    return Event[InferenceBatch](
        id=event_id,
        source="/slipway/gateway",
        type=InferenceBatch.TYPE,
        subject=f.MODEL,
        time=f.after(seconds),
        correlationid="r-7",
        data=InferenceBatch(gateway="g", records=tuple(records)),
    )
