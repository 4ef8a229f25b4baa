"""The screen of a canary: candidate over active, and the evidence of each trigger against its line. Pure."""

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
"""Of the keys of e-values: what each test compares the candidate with, for people."""
FIGURES: Final = ("ttft_p95_ms", "itl_p95_ms", "e2e_p95_ms")


class Side(Screen):
    """Metrics of one target during the canary.

    The failure ratio is that of all complete windows together; each latency is the median of the windows' p95.

    Attributes:
        windows: Windows of the target in which it had requests; 0 if the index has none.
        failed_ratio: Failures of the target as a share of its requests.
    """

    target: str
    windows: int
    failed_ratio: float | None
    ttft_p95_ms: float | None
    itl_p95_ms: float | None
    e2e_p95_ms: float | None


class Share(Screen):
    """A step of the canary: its share of traffic and its state."""

    weight: float
    state: Literal["waiting", "running", "pass", "fail"]


class Bad(Screen):
    """The numbers of bad and of all requests that a trigger observed."""

    bad: int
    requests: int


class Evidence(Screen):
    """The evidence against a candidate by one trigger; the canary is aborted when a value reaches `line`.

    Attributes:
        e_value: Against the trigger's own limit.
        baseline_e_value: Beside the active target in the same seconds.
        allowed_ratio: The share of bad requests that the trigger allows.
        line: 1/alpha.
        candidate: Requests of the candidate that the last assessment counted; None if it names no counts.
        active_beside: Requests of the active target at the same time.
        pairs: Requests that both versions answered, and which of them were bad on which; None if there was none.
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
    """A test of a trigger whose e-values are drawn: against its limit, or beside the active target.

    Attributes:
        key: Its name among the e-values of an assessment.
        label: Its name for people.
        line: 1/alpha: an e-value of this aborts the canary.
    """

    key: str
    label: str
    line: float


class CanaryPoint(Screen):
    """An assessment of the canary: evidence by test (`NAME`, `NAME:baseline`), and the missing evidence."""

    at: Time
    weight: float
    requests: int
    requests_needed: int
    verdict: str
    e_values: dict[str, float]


class Latency(Screen):
    """The p95 time to first token of both sides for one window, in ms; None for a side that has none in the window."""

    at: Time
    candidate: float | None
    active: float | None


class Canary(Screen):
    """A canary: which target takes which share, candidate over active, and the evidence over time, oldest first.

    Attributes:
        requests: Of the candidate in the current step, as the last assessment counted them; the evidence is of
            the shadow and all steps.
        moments: What happened to the model meanwhile.
        windows: Windows of both targets that the figures of the sides are of; 0 if the index has none.
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
    """Convert rows of the console's index to the points of a canary's chart, one for each assessment."""
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
    """Return the metrics of a target over its windows; None if there is no target."""
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
    """Return the shares that a policy plans, each with the last verdict on it."""
    verdicts = {point.weight: point.verdict for point in points}
    shown: dict[str | None, Any] = {"pass": "pass", "fail": "fail", "inconclusive": "running", None: "waiting"}
    return tuple(Share(weight=step, state=shown[verdicts.get(step)]) for step in policy.canary.steps)


def evidence_of(policy: ReleasePolicy, latest: CanaryAssessed | None) -> tuple[Evidence, ...]:
    """Return the evidence of the last assessment by each trigger that watches request by request, strongest first."""
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
    """Return the tests that the assessments have e-values of, those nearest to their lines first."""
    latest = canary.points[-1].e_values if canary.points else {}
    tests = [
        EvidenceTest(key=row.trigger + suffix, label=row.trigger + against, line=row.line)
        for row in canary.evidence
        for suffix, against in SUFFIXES.items()
        if row.trigger + suffix in latest
    ]
    return tuple(sorted(tests, key=lambda test: -latest[test.key] / test.line))


def label_of(key: str) -> str:
    """Return the name of a test for people, by its key among the e-values of an assessment."""
    trigger, colon, suffix = key.partition(":")
    return trigger + SUFFIXES.get(colon + suffix, colon + suffix)


def latencies_of(windows: Iterable[Entry], candidate: str | None, active: str | None) -> tuple[Latency, ...]:
    """Return the p95 of the time to first token of both sides, one entry per end of a window."""
    by_end: dict[str, dict[str, float | None]] = {}
    for window in windows:
        by_end.setdefault(window["ended_at"], {})[window["target"]] = window["ttft_p95_ms"]
    return tuple(
        Latency(at=at, candidate=known.get(candidate or ""), active=known.get(active or ""))
        for at, known in sorted(by_end.items())
    )
