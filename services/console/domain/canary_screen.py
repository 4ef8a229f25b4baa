"""Data of the canary page: candidate and active target, and each trigger's evidence. Pure."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

from contracts.facts import CanaryAssessed, PairCounts
from contracts.policy import ReleasePolicy, Trigger
from decisions.evidence.triggers import limit_of, sequential
from services.console.domain.screens import Moment, Screen, Time

Entry = Mapping[str, Any]
SUFFIXES: Final = {"": "", ":baseline": " beside active"}
"""Label of each e-value's comparison, by the suffix of its key."""
FIGURES: Final = ("ttft_p95_ms", "itl_p95_ms", "e2e_p95_ms")


class Side(Screen):
    """A target's metrics during the canary.

    The failure ratio covers all windows together; each latency is the median of the windows' p95, in milliseconds.

    Attributes:
        windows: Windows with requests to the target; 0 if the index has none.
        failed_ratio: Share of its requests that the target failed.
    """

    target: str
    windows: int
    failed_ratio: float | None
    ttft_p95_ms: float | None
    itl_p95_ms: float | None
    e2e_p95_ms: float | None


class Share(Screen):
    """A traffic share of the canary, and its state."""

    weight: float
    state: Literal["waiting", "running", "pass", "fail"]


class Bad(Screen):
    """Bad and total requests that a trigger counted."""

    bad: int
    requests: int


class Evidence(Screen):
    """A trigger's evidence against a candidate; an e-value at or above `line` aborts the canary.

    Attributes:
        e_value: E-value against the trigger's limit.
        baseline_e_value: E-value against the active target in the same seconds.
        allowed_ratio: Share of bad requests that the trigger allows.
        line: 1/alpha.
        candidate: The candidate's requests in the last assessment; None without counts.
        active_beside: The active target's requests in the same period.
        pairs: Requests that both versions answered, counted by which was bad; None if there was none.
    """

    trigger: str
    metric: str
    threshold: float
    allowed_ratio: float
    action: str
    line: float
    e_value: float | None
    baseline_e_value: float | None
    candidate: Bad | None
    active_beside: Bad | None
    pairs: PairCounts | None


class EvidenceTest(Screen):
    """A test whose e-values the chart draws: against a trigger's limit, or against the active target.

    Attributes:
        key: Its key among an assessment's e-values.
        label: Its name on pages.
        line: 1/alpha; this e-value aborts the canary.
    """

    key: str
    label: str
    line: float


class CanaryPoint(Screen):
    """An assessment of the canary: e-values by test (`NAME`, `NAME:baseline`), and the requests still needed."""

    at: Time
    weight: float
    requests: int
    requests_needed: int
    verdict: str
    e_values: dict[str, float]


class Latency(Screen):
    """TTFT p95 of both targets in one window, in milliseconds; None for a target without requests."""

    at: Time
    candidate: float | None
    active: float | None


class Canary(Screen):
    """A canary: traffic shares, metrics of candidate and active target, and evidence over time, oldest first.

    Attributes:
        requests: The candidate's requests in the current step at the last assessment; evidence covers the shadow and
            all steps.
        moments: Events of the model in the same period.
        windows: Windows behind the metrics of both targets; 0 if the index has none.
    """

    release_id: str
    model: str
    version: int | None
    state: str
    candidate: Side | None
    active: Side | None
    shares: tuple[Share, ...]
    requests: int
    requests_needed: int
    min_requests: int
    verdict: str
    reason: str
    evidence: tuple[Evidence, ...]
    points: tuple[CanaryPoint, ...]
    windows: int
    ttft: tuple[Latency, ...]
    moments: tuple[Moment, ...]


def points_of(entries: Iterable[Entry]) -> tuple[CanaryPoint, ...]:
    """Convert index rows to the points of the canary's chart, one per assessment."""
    return tuple(
        CanaryPoint(
            at=entry["at"],
            weight=entry["weight"],
            requests=entry["requests"],
            requests_needed=entry["requests_needed"],
            verdict=entry["verdict"],
            e_values=json.loads(entry["e_values"]),
        )
        for entry in entries
    )


def side_of(target: str | None, windows: Sequence[Entry]) -> Side | None:
    """Return a target's metrics over its windows; None without a target."""
    if target is None:
        return None
    own = [window for window in windows if window["target"] == target]
    known = {name: [window[name] for window in own if window[name] is not None] for name in FIGURES}
    requests = sum(window["requests"] for window in own)
    return Side(
        target=target,
        windows=sum(window["requests"] > 0 for window in own),
        failed_ratio=sum(window["failures"] for window in own) / requests if requests else None,
        **{name: statistics.median(values) if values else None for name, values in known.items()},
    )


def shares_of(policy: ReleasePolicy, points: Sequence[CanaryPoint]) -> tuple[Share, ...]:
    """Return the traffic shares of a policy, each with its last verdict."""
    verdicts = {point.weight: point.verdict for point in points}
    shown: dict[str | None, Any] = {"pass": "pass", "fail": "fail", "inconclusive": "running", None: "waiting"}
    return tuple(Share(weight=step, state=shown[verdicts.get(step)]) for step in policy.canary.steps)


def evidence_of(policy: ReleasePolicy, latest: CanaryAssessed | None) -> tuple[Evidence, ...]:
    """Return the last assessment's evidence by sequential trigger, strongest first."""
    rows = [_evidence(trigger, latest) for trigger in sequential(policy.triggers)]
    return tuple(sorted(rows, key=lambda row: -max(row.e_value or 0.0, row.baseline_e_value or 0.0) / row.line))


def _evidence(trigger: Trigger, latest: CanaryAssessed | None) -> Evidence:
    e_values = latest.e_values if latest is not None else {}
    counts = latest.counts.get(trigger.name) if latest is not None else None
    return Evidence(
        trigger=trigger.name,
        metric=trigger.metric,
        threshold=trigger.threshold,
        allowed_ratio=limit_of(trigger),
        action=trigger.action,
        line=1.0 / trigger.alpha,
        e_value=e_values.get(trigger.name),
        baseline_e_value=e_values.get(f"{trigger.name}:baseline"),
        candidate=Bad(bad=counts.bad, requests=counts.requests) if counts else None,
        active_beside=Bad(bad=counts.active_bad, requests=counts.active_requests) if counts else None,
        pairs=counts.mirrored if counts else None,
    )


def strongest_tests(canary: Canary) -> tuple[EvidenceTest, ...]:
    """Return the tests with e-values in the last assessment, closest to their lines first."""
    latest = canary.points[-1].e_values if canary.points else {}
    tests = [
        EvidenceTest(key=row.trigger + suffix, label=row.trigger + against, line=row.line)
        for row in canary.evidence
        for suffix, against in SUFFIXES.items()
        if row.trigger + suffix in latest
    ]
    return tuple(sorted(tests, key=lambda test: -latest[test.key] / test.line))


def label_of(key: str) -> str:
    """Return the label of a test by its e-value key."""
    trigger, colon, suffix = key.partition(":")
    return trigger + SUFFIXES.get(colon + suffix, colon + suffix)


def latencies_of(windows: Iterable[Entry], candidate: str | None, active: str | None) -> tuple[Latency, ...]:
    """Return TTFT p95 of candidate and active target, one entry per window end."""
    by_end: dict[str, dict[str, float | None]] = {}
    for window in windows:
        by_end.setdefault(window["ended_at"], {})[window["target"]] = window["ttft_p95_ms"]
    return tuple(
        Latency(at=at, candidate=known.get(candidate or ""), active=known.get(active or ""))
        for at, known in sorted(by_end.items())
    )
