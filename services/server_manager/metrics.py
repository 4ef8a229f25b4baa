"""Prometheus metrics of the server-manager: targets, memory, staging orders, alerts, agents."""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial

from prometheus_client import CollectorRegistry

from contracts import metrics as m
from services.server_manager.answers import SEVERITY
from services.server_manager.domain.records import Servers
from shared.runtime.metrics import BoundedLabel, Counts, gauge


class FleetMetrics:
    """Metrics of the fleet's record, exported by every server-manager, not only the leader."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._targets = Counts(gauge(m.TARGETS, registry))
        self._memory = Counts(gauge(m.TARGET_MEMORY, registry))
        self._alerts = Counts(gauge(m.ALERTS_OPEN, registry))
        self._copies = Counts(gauge(m.COPIES, registry))
        self._reserved = gauge(m.MEMORY_RESERVED, registry)
        self._budget = gauge(m.MEMORY_BUDGET, registry)
        self._waiting = gauge(m.LEASES_WAITING, registry)
        self._target = BoundedLabel()

    def note(self, fleet: str, record: Servers) -> None:
        """Export the record of a fleet."""
        self._targets.replace(fleet, Counter((loaded.phase,) for loaded in record.loaded))
        memory = Counter[tuple[str, ...]]()
        counts = Counter[tuple[str, ...]]()
        for loaded in record.loaded:
            memory[(self._target(loaded.target),)] += loaded.memory_bytes
        for copies in record.copies:
            memory[(self._target(copies.target),)] += copies.memory_bytes
            counts[self._target(copies.target), "asked"] += copies.asked
            counts[self._target(copies.target), "serving"] += copies.serving
        self._copies.replace(fleet, counts)
        self._memory.replace(fleet, memory)
        self._alerts.replace(
            fleet, Counter(("production", alert.kind, SEVERITY[alert.kind]) for alert in record.alerts)
        )
        self._reserved.set(sum(memory.values()))
        self._budget.set(record.memory_budget_bytes)
        self._waiting.set(len(record.waiting))


def show_agents(
    registry: CollectorRegistry, answering: Mapping[str, Callable[[], bool]], superseded: Callable[[], bool]
) -> None:
    """Export at each scrape whether the agent of each endpoint's Triton answers (label `runtime`).

    A superseded process asks no agent, so it exports all as answering.
    """

    def answers_leader(is_answering: Callable[[], bool]) -> bool:
        return superseded() or is_answering()

    shown = gauge(m.AGENT_ANSWERS, registry)
    for runtime, is_answering in answering.items():
        shown.labels(runtime).set_function(partial(answers_leader, is_answering))
