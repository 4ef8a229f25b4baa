"""The progress of releases, computed from the event log. Pure.

A checkpoint and the release that it opens are in different streams, whose events may arrive in any order; `join` merges
them.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

from clients.cli.views.progress import OngoingWork
from contracts import facts as f
from contracts.envelope import Event
from contracts.policy import ReleasePolicy
from decisions.release_plan import PlannedStep, next_step, plan_release, with_earlier
from decisions.release_plan import Step as ReleaseStep

State = Literal["waiting", "running", "done", "failed"]
_SHORTEST: tuple[ReleaseStep, ...] = ("merge", "quantise", "register", "queue", "stage", "benchmark")

STEPS = (
    "admitted",
    "merged",
    "quantised",
    "registered",
    "staged",
    "benchmarked",
    "rehearsed",
    "approved",
    "canary",
    "in traffic",
    "finished",
)
OPTIONAL = frozenset({"rehearsed", "approved", "canary"})
"""Steps that are shown only if the plan has them and they are still to come, or if they happened."""
_NAMES: Mapping[ReleaseStep, str] = {
    "merge": "merged",
    "quantise": "quantised",
    "register": "registered",
    "queue": "staged",
    "stage": "staged",
    "benchmark": "benchmarked",
    "rehearsal": "rehearsed",
    "approval": "approved",
    "canary": "canary",
}


def name_of(step: PlannedStep) -> str:
    """Return the name under which a step of the plan is shown; all traffic shares below 1 are the canary."""
    if step.step == "traffic":
        return "in traffic" if step.share == 1.0 else "canary"
    return _NAMES[step.step]


@dataclass(frozen=True)
class Step:
    """One step of a release: its state, since when, and its result."""

    name: str
    state: State = "waiting"
    at: datetime | None = None
    detail: str = ""


@dataclass(frozen=True)
class ReleaseProgress:
    """The progress of one release, from its checkpoint to its end."""

    key: str
    model: str
    began_at: datetime
    run_id: str = ""
    release_id: str | None = None
    version: int | None = None
    variants: tuple[str, ...] = ()
    steps: Mapping[str, Step] = field(default_factory=dict)
    work: OngoingWork = field(default_factory=OngoingWork)
    outcome: str | None = None
    code: str | None = None
    reason: str = ""
    finished_at: datetime | None = None
    policy: ReleasePolicy | None = None
    first: bool = False
    passed: frozenset[float] = frozenset()
    source_id: str = ""
    inputs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Return the display name: `support-bot v3`, or the model alone before a version was reserved."""
        return f"{self.model} v{self.version}" if self.version is not None else self.model

    @property
    def plan(self) -> tuple[PlannedStep, ...]:
        """Return the registry's plan of the release; before its policy is known, the shortest one."""
        if self.policy is not None:
            return plan_release(self.policy, first=self.first)
        return (*(PlannedStep(step) for step in _SHORTEST), PlannedStep("traffic", 1.0))

    def listed(self) -> list[Step]:
        """Return the steps in order; while the release is in progress, the next one of its plan is running."""
        plan = self.plan
        done = with_earlier(plan, [step for step in plan if self._is_done(name_of(step))])
        planned = {name_of(step) for step in plan if step not in done and self.outcome is None}
        shown = [name for name in STEPS if name not in OPTIONAL or name in planned or name in self.steps]
        steps = [self.steps.get(name, Step(name)) for name in shown]
        if self.outcome is not None:
            return steps
        following = next_step(plan, done)
        running = "admitted" if not self._is_done("admitted") and not done else "finished"
        if following is not None and running != "admitted":
            running = name_of(following)
        return [
            replace(step, state="running") if step.name == running and step.state == "waiting" else step
            for step in steps
        ]

    def _is_done(self, name: str) -> bool:
        return name in self.steps and self.steps[name].state == "done"

    def with_step(self, name: str, at: datetime, detail: str = "", state: State = "done") -> "ReleaseProgress":
        """Return the release with a step recorded: the first completion counts, details of variants are joined."""
        earlier = self.steps.get(name)
        if earlier is not None and (earlier.state == "done" or earlier.state == state == "failed"):
            parts = [part for part in (*earlier.detail.split("; "), detail) if part]
            at, detail, state = max(at, earlier.at or at), "; ".join(sorted(set(parts))), earlier.state
        return replace(self, steps={**self.steps, name: Step(name, state, at, detail)})

    def settled(self, event: Event[Any], variant: str = "") -> "ReleaseProgress":
        """Return the release without the progress of the work that an event answers."""
        return replace(self, work=self.work.settle(event, variant))


Releases = Mapping[str, ReleaseProgress]


def project(events: Iterable[Event[Any]]) -> dict[str, ReleaseProgress]:
    """Return the progress of all releases that the events are about."""
    releases: dict[str, ReleaseProgress] = {}
    for event in events:
        releases = advance(releases, event)
    return releases


def advance(releases: Releases, event: Event[Any]) -> dict[str, ReleaseProgress]:
    """Return the releases after one more event; events of staging or of no known release change nothing."""
    apply = _APPLY.get(type(event.data))
    key = _key_of(event)
    known = releases.get(key)
    if event.environment != "production":
        return dict(releases)
    if apply is None or (known is None and not isinstance(event.data, _BEGINNINGS)):
        return dict(releases)
    return {**releases, key: apply(known or ReleaseProgress(key, event.subject, event.time), event)}


def latest(releases: Releases, model: str | None = None) -> ReleaseProgress | None:
    """Return the release that began last, or None."""
    candidates = [release for release in releases.values() if model is None or release.model == model]
    return max(candidates, key=lambda release: (release.began_at, release.version or 0), default=None)


def _key_of(event: Event[Any]) -> str:
    """Return the key of the release of an event: the id of checkpoint.ready, until the release has an id."""
    data = event.data
    if isinstance(data, f.CheckpointReady):
        return event.id
    if isinstance(data, f.CheckpointRejected) and event.source.endswith("/registry"):
        return event.causationid or event.correlationid
    return event.correlationid


def join(releases: Releases) -> dict[str, ReleaseProgress]:
    """Return the releases, each merged with the checkpoint that opened it; repeated checkpoints are dropped."""
    opened = [release for release in releases.values() if release.release_id is not None]
    opened_by = {release.source_id: release for release in opened}
    known_inputs = {release.inputs for release in opened if release.inputs}
    joined = {release.key: release for release in opened}
    for checkpoint in releases.values():
        if checkpoint.release_id is not None:
            continue
        if (release := opened_by.get(checkpoint.key)) is not None:
            joined[release.key] = replace(release, began_at=min(release.began_at, checkpoint.began_at))
        elif checkpoint.outcome is not None or checkpoint.inputs not in known_inputs:
            joined[checkpoint.key] = checkpoint
    return joined


def _inputs(fact: f.CheckpointReady | f.ReleaseOpened) -> tuple[str, ...]:
    """Return the inputs that identify a checkpoint: two with the same inputs are the same one."""
    return (
        fact.model,
        fact.weights.ref.digest,
        fact.base.digest,
        fact.training.run_id,
        str(fact.attempt),
        *sorted(set(fact.variants)),
    )


def _announced(release: ReleaseProgress, event: Event[f.CheckpointReady]) -> ReleaseProgress:
    data = event.data
    return replace(
        release,
        began_at=min(release.began_at, event.time),
        run_id=data.training.run_id,
        variants=tuple(data.variants),
        inputs=_inputs(data),
    )


def _opened(release: ReleaseProgress, event: Event[f.ReleaseOpened]) -> ReleaseProgress:
    data = event.data
    opened = replace(
        release,
        release_id=data.release_id,
        version=data.version,
        run_id=data.training.run_id,
        variants=tuple(data.variants),
        policy=data.policy,
        began_at=min(release.began_at, event.time),
        source_id=data.source_event_id,
        inputs=_inputs(data),
    )
    return opened.with_step("admitted", event.time, f"version {data.version} reserved")


def _rejected(release: ReleaseProgress, event: Event[f.CheckpointRejected]) -> ReleaseProgress:
    data = event.data
    step = "admitted" if event.source.endswith("/registry") else "merged"
    failed = release.with_step(step, event.time, data.code, "failed")
    if step == "merged":
        return failed
    return replace(failed, outcome="rejected", code=data.code, reason=data.reason, finished_at=event.time)


def _merged(release: ReleaseProgress, event: Event[f.CheckpointMerged]) -> ReleaseProgress:
    return release.with_step("merged", event.time, _merge_detail(event.data)).settled(event)


def _merge_detail(data: f.CheckpointMerged) -> str:
    """Return how close the merged model is to base + LoRA, and why it need not be the same."""
    if data.parity is None:
        return ""
    agreement = f"{data.parity.top1_agreement_ratio:.1%} of likeliest tokens as with base + LoRA"
    rounded = data.parity.top1_agreement_ratio < 1.0 and data.method.dtype != "float32"
    return agreement + (f" (rounding to {data.method.dtype} decides near-ties)" if rounded else "")


def _quantised(release: ReleaseProgress, event: Event[f.VariantQuantised]) -> ReleaseProgress:
    data = event.data
    if data.measurement_number > 1:  # the same files: a benchmark contradicted their recorded quality
        again = f"{data.variant}: measured again, perplexity x{data.quality.perplexity_ratio:.3f}"
        return release.with_step("benchmarked", event.time, again).settled(event, data.variant)
    detail = f"{data.variant}: perplexity x{data.quality.perplexity_ratio:.3f}, size x{data.size_ratio:.2f}"
    detail += " of the merged model" + (" (embeddings are not quantised)" if data.size_ratio < 1.0 else "")
    return release.with_step("quantised", event.time, detail).settled(event, data.variant)


def _variant_failed(release: ReleaseProgress, event: Event[f.VariantFailed]) -> ReleaseProgress:
    data, release = event.data, release.settled(event, event.data.variant)
    step = {"quantise": "quantised", "stage": "staged", "benchmark": "benchmarked"}[data.step]
    if data.measurement_number > 1:
        step = "benchmarked"
    earlier = release.steps.get(step)
    if earlier is not None and earlier.state == "done":
        return release.with_step(step, event.time, f"{data.variant}: {data.code}")
    return release.with_step(step, event.time, f"{data.variant}: {data.code}", "failed")


def _registered(release: ReleaseProgress, event: Event[f.VersionRegistered]) -> ReleaseProgress:
    return release.with_step("registered", event.time, f"version {event.data.version}")


def _staged(release: ReleaseProgress, event: Event[f.VariantStaged]) -> ReleaseProgress:
    data, release = event.data, release.settled(event, event.data.candidate.target.variant)
    if data.request.purpose != "benchmark" or data.request.measurement_number > 1:
        return release
    against = data.baseline.target
    release = replace(release, first=against.version == 0)
    detail = f"{data.candidate.target.variant} next to v{against.version}.{against.variant} in {data.load_s:.0f} s"
    return release.with_step("staged", event.time, detail)


def _benchmarked(release: ReleaseProgress, event: Event[f.VariantBenchmarked]) -> ReleaseProgress:
    data = event.data
    p95 = data.candidate_summary.ttft_ms.p95
    faults = "".join(f" ({gate.code}: {gate.attributed_to})" for gate in data.gates if gate.code and gate.attributed_to)
    detail = f"{data.target.variant}: {data.verdict}{faults}" + ("" if p95 is None else f", TTFT p95 {p95:.0f} ms")
    return release.with_step("benchmarked", event.time, detail).settled(event, data.target.variant)


def _rehearsed(release: ReleaseProgress, event: Event[f.RehearsalCompleted]) -> ReleaseProgress:
    data = event.data
    took = [
        f"{certificate.trigger} rolled back in {certificate.detect_s + certificate.switch_s:.1f} s"
        for certificate in data.certificates
    ]
    if data.verdict == "pass":
        return release.with_step("rehearsed", event.time, ", ".join(took))
    return release.with_step("rehearsed", event.time, data.reason, "failed")


def _assessed(release: ReleaseProgress, event: Event[f.CanaryAssessed]) -> ReleaseProgress:
    data = event.data
    if data.verdict == "inconclusive":
        more = f"{data.requests} requests, {data.requests_needed} more needed"
        return release.with_step("canary", event.time, more, "running")
    detail = f"{data.verdict} after {data.requests} requests"
    if data.verdict != "pass":
        return release.with_step("canary", event.time, detail, "failed")
    release = replace(release, passed=release.passed | {data.weight_ratio})
    shares = {step.share for step in release.plan if step.step == "canary"}
    state: State = "done" if shares <= release.passed else "running"
    return release.with_step("canary", event.time, detail, state)


def _awaited(release: ReleaseProgress, event: Event[f.ApprovalRequested]) -> ReleaseProgress:
    detail = f"waiting until {event.data.deadline_at:%Y-%m-%d %H:%M} UTC"
    if "approved" in release.steps and release.steps["approved"].state == "done":
        return release
    return release.with_step("approved", event.time, detail, "running")


def _approved(release: ReleaseProgress, event: Event[f.ApprovalGranted]) -> ReleaseProgress:
    return release.with_step("approved", event.time, f"by {event.data.actor}")


def _deployed(release: ReleaseProgress, event: Event[f.DeploymentChanged]) -> ReleaseProgress:
    route = event.data.route
    for served in (route.active, route.canary.served if route.canary else None):
        if served is not None and served.target.version == release.version:
            release = release.settled(event, served.target.variant)
    if event.data.cause == "promote" and route.active is not None:
        return release.with_step("in traffic", event.time, f"{route.active.target} takes all traffic")
    if event.data.cause == "canary" and route.canary is not None:
        share = f"{route.canary.served.target} takes {route.canary.weight_ratio:.0%}"
        return release.with_step("canary", event.time, share, "running")
    return release


def _progressed(release: ReleaseProgress, event: Event[f.WorkProgressed]) -> ReleaseProgress:
    return release if release.outcome else replace(release, work=release.work.advance(event, release.variants))


def _finished(release: ReleaseProgress, event: Event[f.ReleaseFinished]) -> ReleaseProgress:
    data = event.data
    state: State = "done" if data.outcome == "promoted" else "failed"
    ended = replace(
        release,
        outcome=data.outcome,
        code=data.code,
        reason=data.reason,
        finished_at=event.time,
        work=OngoingWork(),
        release_id=data.release_id,
        version=data.version,
    )
    return ended.with_step("finished", event.time, data.outcome, state)


_BEGINNINGS = (f.CheckpointReady, f.ReleaseOpened, f.CheckpointRejected, f.ReleaseFinished)

_APPLY: dict[type, Callable[[ReleaseProgress, Any], ReleaseProgress]] = {
    f.CheckpointReady: _announced,
    f.ReleaseOpened: _opened,
    f.CheckpointRejected: _rejected,
    f.CheckpointMerged: _merged,
    f.VariantQuantised: _quantised,
    f.VariantFailed: _variant_failed,
    f.VersionRegistered: _registered,
    f.VariantStaged: _staged,
    f.VariantBenchmarked: _benchmarked,
    f.RehearsalCompleted: _rehearsed,
    f.CanaryAssessed: _assessed,
    f.ApprovalRequested: _awaited,
    f.ApprovalGranted: _approved,
    f.DeploymentChanged: _deployed,
    f.WorkProgressed: _progressed,
    f.ReleaseFinished: _finished,
}
