"""The monitor's handlers: read, ask the domain, write, publish. Failure belongs to `shared.messaging.bus`."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from contracts.envelope import Event
from contracts.facts import DeploymentChanged, InferenceBatch, ReleaseOpened
from contracts.vocabulary import ArtifactRef, Environment
from decisions.clocks import is_wrong, offset_s
from services.monitor.domain import drift
from services.monitor.domain import drift_windows as drifting
from services.monitor.domain import monitoring as watching
from services.monitor.domain.drift_windows import FullWindow
from services.monitor.domain.monitoring import Cause, Rules, Sender
from services.monitor.domain.record import Watch
from services.monitor.ports import References, Reports
from shared.errors import SlipwayError, translate
from shared.messaging.bus import Bus, stored_at
from shared.messaging.ledger import Ledger
from shared.runtime.clock import Clock

SERVICE = "monitor"
ENVIRONMENTS: tuple[Environment, Environment] = ("production", "staging")


class Meter:
    """What the monitor counts about the gateways that send to it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._offset = Gauge(
            "slipway_gateway_clock_offset_seconds",
            "Seconds that a gateway's clock is ahead of the bus's",
            ["gateway"],
            registry=registry,
        )
        self._moved = Counter(
            "slipway_records_at_a_wrong_time",
            "Records of gateways whose clock is wrong, taken at the bus's time",
            ["gateway"],
            registry=registry,
        )
        self._left = Counter(
            "slipway_records_implausible",
            "Records that cannot be true and were left aside",
            ["gateway"],
            registry=registry,
        )

    def count(self, sender: Sender, records: int, left_aside: int) -> None:
        """Count a batch."""
        self._offset.labels(sender.gateway).set(sender.offset_s)
        if is_wrong(sender.offset_s):
            self._moved.labels(sender.gateway).inc(records)
        self._left.labels(sender.gateway).inc(left_aside)


@dataclass(frozen=True)
class Monitor:
    """What the monitor does with each kind of fact, and between them."""

    ledger: Ledger[Watch]
    references: References
    reports: Reports
    clock: Clock
    rules: Rules
    own_offset_s: Callable[[], float] = lambda: 0.0
    meter: Meter | None = None

    async def measure(self, event: Event[InferenceBatch], stored: datetime | None = None) -> None:
        """Observe a batch of telemetry, which the bus stored at a time by its own clock."""
        cause, batch, left_aside = self._cause(event.id, event.correlationid), event.data, 0
        sender = None if stored is None else Sender(batch.gateway, offset_s(event.time, stored))

        def take(watch: Watch) -> Watch:
            nonlocal left_aside
            after = watching.take_records(watch, batch.records, cause, self.rules, sender)
            left_aside = after.implausible - watch.implausible
            return after

        await self.ledger.apply(event.environment, event.subject, take)
        if self.meter is not None and sender is not None:
            self.meter.count(sender, len(batch.records), left_aside)

    async def follow(self, event: Event[DeploymentChanged]) -> None:
        """Follow a route."""
        cause = self._cause(event.id, event.correlationid)
        await self.ledger.apply(
            event.environment,
            event.subject,
            lambda watch: watching.take_route(watch, event.data.route, cause, self.rules),
        )

    async def learn(self, event: Event[ReleaseOpened]) -> None:
        """Learn the policy of a version; its rehearsal in staging is watched by the same triggers."""
        opened, cause = event.data, self._cause(event.id, event.correlationid)
        for environment in ENVIRONMENTS:
            await self.ledger.apply(
                environment,
                opened.model,
                lambda watch: watching.take_policy(watch, opened.version, opened.release_id, opened.policy, cause),
            )

    async def sweep(self) -> None:
        """Do everything that time alone makes due; one model that fails does not keep the others waiting."""
        for environment, model in await self.ledger.kept():
            try:
                watch = await self._tick(environment, model)
                for window in drifting.full_windows(watch, self.rules):
                    await self._look_for_drift(watch, window)
            except Exception as error:  # noqa: BLE001 - whatever it is: the next sweep tries again, the others must go on
                if translate(error) is None:
                    structlog.get_logger().exception("could not sweep", model=model, environment=environment)
                else:
                    structlog.get_logger().warning("could not sweep", model=model, error=repr(error))

    async def keep_sweeping(self, every_s: float) -> None:
        """Sweep for ever, which also says what an earlier process left unsaid.

        The first time comes after as long as a window waits for late records: what lay on the bus while no monitor
        ran must be taken before its window is closed.
        """
        await asyncio.sleep(self.rules.windowing.lateness_s)
        while True:
            try:
                await self.sweep()
            except SlipwayError as error:
                structlog.get_logger().warning("could not sweep", error=repr(error))
            except Exception as error:
                if translate(error) is None:
                    raise
                structlog.get_logger().warning("could not sweep", error=repr(error))
            await asyncio.sleep(every_s)

    async def _tick(self, environment: Environment, model: str) -> Watch:
        now = self.clock.now()
        cause = Cause(f"{environment}.{model}/{now.isoformat()}", now, own_offset_s=self.own_offset_s())
        return await self.ledger.apply(environment, model, lambda watch: watching.assess(watch, cause, self.rules))

    async def _look_for_drift(self, watch: Watch, window: FullWindow) -> None:
        if window.reference is None:
            reference = await self.references.latest(window.target) or await self.references.put(
                window.target, window.columns, taken_at=window.ended_at, source="first accepted production window"
            )
            await self.ledger.apply(
                watch.environment, watch.model, lambda now: drifting.take_reference(now, window, reference)
            )
            return
        rows = await self.references.rows(window.reference)
        verdict = await asyncio.to_thread(compare, rows, window)
        evidence = await self._report(window, rows, verdict) if verdict.drifted else None
        at = self.clock.now()
        cause = Cause(f"{watch.environment}.{watch.model}/drift/{window.ended_at.isoformat()}", at)
        await self.ledger.apply(
            watch.environment,
            watch.model,
            lambda now: drifting.take_comparison(now, window, verdict, evidence, cause=cause, rules=self.rules),
        )

    async def _report(
        self, window: FullWindow, rows: dict[str, list[float]], verdict: drift.DriftVerdict
    ) -> ArtifactRef | None:
        """Make the evidence; an alert without a report is better than a report without an alert."""
        try:
            return await self.reports.make(window.target, rows, window.columns, verdict)
        except Exception as error:
            known = translate(error)
            if known is None:
                raise
            structlog.get_logger().error(
                "no drift report", target=str(window.target), code=known.code, reason=known.reason
            )
            return None

    def _cause(self, cause_id: str, correlation_id: str) -> Cause:
        return Cause(cause_id, self.clock.now(), correlation_id, self.own_offset_s())


def compare(reference: dict[str, list[float]], window: FullWindow) -> drift.DriftVerdict:
    """Compare a window with its reference, by thresholds calibrated on the reference itself."""
    rows = max(len(values) for values in window.columns.values())
    floors = drift.calibrate(reference, rows, seed=window.seed)
    return drift.assess_drift(reference, window.columns, floors=floors, alpha=window.alpha, floor=window.floor)


def build(bus: Bus, *, monitor: Monitor) -> None:
    """Subscribe the handlers, those of staging beside those of production."""
    for environment in ENVIRONMENTS:

        @bus.on(InferenceBatch, environment=environment)
        async def measure(event: Event[InferenceBatch]) -> None:
            await monitor.measure(event, stored_at())

        @bus.on(DeploymentChanged, environment=environment)
        async def follow(event: Event[DeploymentChanged]) -> None:
            await monitor.follow(event)

    @bus.on(ReleaseOpened)
    async def learn(event: Event[ReleaseOpened]) -> None:
        await monitor.learn(event)
