"""The monitor's event handlers and sweep: each reads the model's record, decides, writes and publishes."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from contracts.envelope import Event
from contracts.facts import DeploymentChanged, InferenceBatch, ReleaseOpened, VersionEvaluated
from contracts.records import parse_record_key, record_key
from contracts.vocabulary import ENVIRONMENTS, ArtifactRef, Environment, Target
from decisions.clocks import offset_s
from services.monitor.domain import drift, drift_windows, evaluations, monitoring
from services.monitor.domain.drift_windows import FullWindow
from services.monitor.domain.monitoring import Cause, Rules, Sender
from services.monitor.domain.record import MonitorState
from services.monitor.metrics import MonitorMetrics
from services.monitor.ports import References, Reports
from services.monitor.settings import MonitorSettings
from shared.errors import Permanent, translate
from shared.messaging.bus import Bus
from shared.messaging.records import RecordStore
from shared.runtime.clock import Clock
from shared.runtime.sweeper import Sweeper

SERVICE = "monitor"
_AROUND_A_REPORT_S = 30.0
"""Seconds for a comparison in addition to its report, and for a model's sweep in addition to a comparison."""
Watched = tuple[Environment, str]
"""Environment and model of a record."""


@dataclass(frozen=True)
class Read:
    """When a model's last batch was added, and when the bus had stored it."""

    at: datetime
    stored_at: datetime

    def backlog_until(self, now: datetime, lateness_s: float) -> datetime | None:
        """Return the storage time of the last batch while a backlog is read; None without a backlog."""
        lateness = timedelta(seconds=lateness_s)
        return self.stored_at if self.at - self.stored_at > lateness and now - self.at <= lateness else None


@dataclass(frozen=True)
class Monitor:
    """The monitor's use cases: one per type of event, and the sweep."""

    states: RecordStore[MonitorState]
    references: References
    reports: Reports
    metrics: MonitorMetrics
    rules: Rules
    clock: Clock
    report_timeout_s: float
    read: dict[Watched, "Read"] = field(default_factory=dict)
    skipped_keys: set[str] = field(default_factory=set)
    """Invalid keys of the bucket, logged once and ignored."""

    @property
    def drift_limit_s(self) -> float:
        """Return the time limit in seconds of a window's comparison and report."""
        return self.report_timeout_s + _AROUND_A_REPORT_S

    async def measure(self, event: Event[InferenceBatch], stored: datetime | None = None) -> None:
        """Add a batch of telemetry; `stored`: when the bus stored it, by the bus's clock."""
        cause, batch, implausible = self._cause(event.id, event.correlationid), event.data, 0
        sender = None if stored is None else Sender(batch.gateway, offset_s(event.time, stored), stored)

        def add(state: MonitorState) -> MonitorState:
            nonlocal implausible
            after = monitoring.add_records(state, batch.records, cause, self.rules, sender, pairs=batch.pairs)
            implausible = after.implausible - state.implausible
            return after

        await self.transact(event.environment, event.subject, add)
        self.metrics.count_arrived(batch.records)
        if sender is not None:
            self.read[event.environment, event.subject] = Read(cause.at, sender.stored_at)
            self.metrics.count(sender, implausible)

    async def follow(self, event: Event[DeploymentChanged]) -> None:
        """Apply a changed route."""
        cause = self._cause(event.id, event.correlationid)
        await self.transact(
            event.environment,
            event.subject,
            lambda state: monitoring.follow_route(state, event.data.route, cause, self.rules),
        )

    async def add_policy(self, event: Event[ReleaseOpened]) -> None:
        """Record a version's policy for production, and for its rehearsal in staging."""
        opened, cause = event.data, self._cause(event.id, event.correlationid)
        for environment in ENVIRONMENTS:
            await self.transact(
                environment,
                opened.model,
                lambda state: monitoring.add_policy(
                    state, opened.version, opened.release_id, opened.policy, cause, returns=opened.returns is not None
                ),
            )

    async def add_check(self, event: Event[VersionEvaluated]) -> None:
        """Decide the alerts on an evaluation check of served versions."""
        cause = self._cause(event.id, event.correlationid)
        await self.transact(
            event.environment,
            event.subject,
            lambda state: evaluations.add_check(state, event.data, cause, self.rules),
        )

    async def watched(self) -> list[Watched]:
        """Return environment and model of every record; invalid keys are skipped."""
        watched = {key: parse_record_key(key) for key in await self.states.keys()}
        for key in {key for key, item in watched.items() if item is None} - self.skipped_keys:
            self.skipped_keys.add(key)
            structlog.get_logger().error(
                "record skipped: its key must be an environment, a dot and a model", key=key, environments=ENVIRONMENTS
            )
        return [item for item in watched.values() if item is not None]

    async def sweep(self, item: Watched) -> None:
        """Process the due work of one model: close windows, decide alerts, compare full drift windows.

        A failed comparison is logged and retried by the next sweep; it does not affect other targets.
        """
        environment, model = item
        now = self.clock.now()
        cause = Cause(f"{environment}.{model}/{now.isoformat()}", now)
        last = self.read.get(item)
        until = last.backlog_until(now, self.rules.windowing.lateness_s) if last else None
        state = await self.transact(
            environment, model, lambda state: monitoring.assess(state, cause, self.rules, read_until=until)
        )
        self.metrics.note_sweep(now)
        windows = {window.target: window for window in drift_windows.full_windows(state, self.rules)}

        async def targets() -> list[Target]:
            return list(windows)

        async def compare_window(target: Target) -> None:
            await self._look_for_drift(state, windows[target])

        await Sweeper("drift windows", targets, compare_window, every_s=0.0, item_limit_s=self.drift_limit_s).sweep()

    async def transact(
        self, environment: Environment, model: str, change: Callable[[MonitorState], MonitorState]
    ) -> MonitorState:
        """Change a model's record and publish its outbox; return the record."""

        def decide(state: MonitorState | None) -> MonitorState:
            return change(state or MonitorState(model=model, environment=environment))

        return await self.states.transact(record_key(environment, model), decide)

    async def _look_for_drift(self, state: MonitorState, window: FullWindow) -> None:
        if window.reference is None:
            reference = await self.references.latest(window.target) or await self.references.put(
                window.target, window.columns, taken_at=window.ended_at, source="first accepted production window"
            )
            await self.transact(
                state.environment,
                state.model,
                lambda current: drift_windows.add_reference(current, window, reference),
            )
            return
        rows = await self.references.rows(window.reference)
        verdict = await asyncio.to_thread(compare, rows, window)
        self.metrics.note_comparison(state.environment, window.target, verdict)
        evidence = await self._report(window, rows, verdict) if verdict.drifted else None
        at = self.clock.now()
        cause = Cause(f"{state.environment}.{state.model}/drift/{window.ended_at.isoformat()}", at)
        await self.transact(
            state.environment,
            state.model,
            lambda current: drift_windows.add_comparison(
                current, window, verdict, evidence, cause=cause, rules=self.rules
            ),
        )

    async def _report(
        self, window: FullWindow, rows: dict[str, list[float]], verdict: drift.DriftVerdict
    ) -> ArtifactRef | None:
        """Return the stored report; None if making it fails or exceeds its time, including waits for other reports.

        The alert is then raised without a report.
        """
        limit = asyncio.timeout(self.report_timeout_s)
        try:
            async with limit:
                return await self.reports.make(window.target, rows, window.columns, verdict)
        except Exception as error:
            known = _too_slow(self.report_timeout_s) if limit.expired() else translate(error)
            if known is None:
                raise
            structlog.get_logger().error(
                "no drift report", target=str(window.target), code=known.code, reason=known.reason
            )
            return None

    def _cause(self, cause_id: str, correlation_id: str) -> Cause:
        return Cause(cause_id, self.clock.now(), correlation_id)


def _too_slow(limit_s: float) -> Permanent:
    reason = f"No report within {limit_s:g} s, the wait for other reports included. Raise MONITOR_REPORT_TIMEOUT_S."
    return Permanent("deadline_passed", reason)


def compare(reference: dict[str, list[float]], window: FullWindow) -> drift.DriftVerdict:
    """Return the drift verdict on a window, with minimum distances calibrated on the reference."""
    rows = max(len(values) for values in window.columns.values())
    floors = drift.calibrate(reference, rows, seed=window.seed)
    return drift.assess_drift(reference, window.columns, floors=floors, alpha=window.alpha, floor=window.floor)


def build(
    bus: Bus,
    *,
    states: RecordStore[MonitorState],
    references: References,
    reports: Reports,
    metrics: MonitorMetrics,
    settings: MonitorSettings,
    clock: Clock,
) -> Monitor:
    """Register the handlers on the bus, for production and staging, and return their use cases."""
    monitor = Monitor(
        states,
        references,
        reports,
        metrics,
        settings.rules(),
        clock,
        report_timeout_s=settings.report_timeout_s,
    )
    for environment in ENVIRONMENTS:

        @bus.on(InferenceBatch, environment=environment, perishable=True)
        async def measure(event: Event[InferenceBatch]) -> None:
            await monitor.measure(event, bus.received.stored_at)

        @bus.on(DeploymentChanged, environment=environment)
        async def follow(event: Event[DeploymentChanged]) -> None:
            await monitor.follow(event)

    @bus.on(ReleaseOpened)
    async def add_policy(event: Event[ReleaseOpened]) -> None:
        await monitor.add_policy(event)

    bus.on(VersionEvaluated)(monitor.add_check)

    return monitor


def build_sweeper(monitor: Monitor, settings: MonitorSettings) -> Sweeper[Watched]:
    """Return the loop for time-dependent work.

    The first sweep waits for `lateness_s`, so that telemetry queued while no monitor ran is added before its windows
    close.
    """
    return Sweeper(
        "monitored models",
        monitor.watched,
        monitor.sweep,
        every_s=settings.sweep_s,
        first_after_s=settings.lateness_s,
        item_limit_s=monitor.drift_limit_s + _AROUND_A_REPORT_S,
    )
