"""The road of each release, projected from the event log. Pure.

A checkpoint and the release that it opens lie in different streams, whose events may come in any order; `join` brings
them together.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

from clients.cli.views.progress import AtWork
from contracts import facts as f
from contracts.envelope import Event

State = Literal["waiting", "running", "done", "failed"]

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
"""Steps that a road shows only where its policy asks for them, or where they happened."""


@dataclass(frozen=True)
class Step:
    """One step of a road: how it stands, since when, and what came out."""

    name: str
    state: State = "waiting"
    at: datetime | None = None
    detail: str = ""


@dataclass(frozen=True)
class Road:
    """One release, from the checkpoint to its end."""

    key: str
    model: str
    began_at: datetime
    run_id: str = ""
    release_id: str | None = None
    version: int | None = None
    variants: tuple[str, ...] = ()
    steps: Mapping[str, Step] = field(default_factory=dict)
    work: AtWork = field(default_factory=AtWork)
    outcome: str | None = None
    code: str | None = None
    reason: str = ""
    finished_at: datetime | None = None
    manual: bool = False
    rehearsal: bool = False
    source_id: str = ""
    inputs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """How people call it: `support-bot v3`, or the model alone before a version was reserved."""
        return f"{self.model} v{self.version}" if self.version is not None else self.model

    def listed(self) -> list[Step]:
        """Return the steps in their order; the first one that is not done is running while the release goes on."""
        asked = {name for name, wanted in (("approved", self.manual), ("rehearsed", self.rehearsal)) if wanted}
        shown = [name for name in STEPS if name not in OPTIONAL or name in asked or name in self.steps]
        found = [self.steps.get(name, Step(name)) for name in shown]
        last_done = max((index for index, step in enumerate(found) if step.state == "done"), default=-1)
        if self.outcome is not None:
            return found
        return [
            replace(step, state="running") if index == last_done + 1 and step.state == "waiting" else step
            for index, step in enumerate(found)
        ]

    def with_step(self, name: str, at: datetime, detail: str = "", state: State = "done") -> "Road":
        """Record a step: its first completion stands, details of several variants are put together."""
        earlier = self.steps.get(name)
        if earlier is not None and (earlier.state == "done" or earlier.state == state == "failed"):
            parts = [part for part in (*earlier.detail.split("; "), detail) if part]
            at, detail, state = max(at, earlier.at or at), "; ".join(sorted(set(parts))), earlier.state
        return replace(self, steps={**self.steps, name: Step(name, state, at, detail)})

    def settled(self, event: Event[Any], variant: str = "") -> "Road":
        """Forget the progress of what an event answers."""
        return replace(self, work=self.work.settle(event, variant))


Roads = Mapping[str, Road]


def project(events: Iterable[Event[Any]]) -> dict[str, Road]:
    """Project the roads of all releases that these events are about."""
    roads: dict[str, Road] = {}
    for event in events:
        roads = advance(roads, event)
    return roads


def advance(roads: Roads, event: Event[Any]) -> dict[str, Road]:
    """Take one more event into account; what belongs to no known road, or to staging, changes nothing."""
    apply = _APPLY.get(type(event.data))
    key = _key_of(event)
    known = roads.get(key)
    if event.environment != "production":
        return dict(roads)
    if apply is None or (known is None and not isinstance(event.data, _BEGINNINGS)):
        return dict(roads)
    return {**roads, key: apply(known or Road(key, event.subject, event.time), event)}


def latest(roads: Roads, model: str | None = None) -> Road | None:
    """Return the road that began last."""
    found = [road for road in roads.values() if model is None or road.model == model]
    return max(found, key=lambda road: (road.began_at, road.version or 0), default=None)


def _key_of(event: Event[Any]) -> str:
    """Return which road an event belongs to: the fact that announced the checkpoint, until a release has an id."""
    data = event.data
    if isinstance(data, f.CheckpointReady):
        return event.id
    if isinstance(data, f.CheckpointRejected) and event.source.endswith("/registry"):
        return event.causationid or event.correlationid
    return event.correlationid


def join(roads: Roads) -> dict[str, Road]:
    """Let a checkpoint and the release that it opened be one road; a repeated checkpoint is its release."""
    releases = [road for road in roads.values() if road.release_id is not None]
    opened_by = {road.source_id: road for road in releases}
    known_inputs = {road.inputs for road in releases if road.inputs}
    joined = {road.key: road for road in releases}
    for road in roads.values():
        if road.release_id is not None:
            continue
        if (release := opened_by.get(road.key)) is not None:
            joined[release.key] = replace(release, began_at=min(release.began_at, road.began_at))
        elif road.outcome is not None or road.inputs not in known_inputs:
            joined[road.key] = road
    return joined


def _inputs(fact: f.CheckpointReady | f.ReleaseOpened) -> tuple[str, ...]:
    """Return what makes two checkpoints the same one."""
    return (
        fact.model,
        fact.weights.ref.digest,
        fact.base.digest,
        fact.training.run_id,
        str(fact.attempt),
        *sorted(set(fact.variants)),
    )


def _announced(road: Road, event: Event[f.CheckpointReady]) -> Road:
    data = event.data
    return replace(
        road,
        began_at=min(road.began_at, event.time),
        run_id=data.training.run_id,
        variants=tuple(data.variants),
        inputs=_inputs(data),
    )


def _opened(road: Road, event: Event[f.ReleaseOpened]) -> Road:
    data = event.data
    opened = replace(
        road,
        release_id=data.release_id,
        version=data.version,
        run_id=data.training.run_id,
        variants=tuple(data.variants),
        manual=data.policy.promotion.mode == "manual",
        rehearsal=data.policy.rehearsal == "required" and bool(data.policy.automatic),
        began_at=min(road.began_at, event.time),
        source_id=data.source_event_id,
        inputs=_inputs(data),
    )
    return opened.with_step("admitted", event.time, f"version {data.version} reserved")


def _rejected(road: Road, event: Event[f.CheckpointRejected]) -> Road:
    data = event.data
    step = "admitted" if event.source.endswith("/registry") else "merged"
    failed = road.with_step(step, event.time, data.code, "failed")
    if step == "merged":
        return failed
    return replace(failed, outcome="rejected", code=data.code, reason=data.reason, finished_at=event.time)


def _merged(road: Road, event: Event[f.CheckpointMerged]) -> Road:
    parity = event.data.parity
    detail = "" if parity is None else f"top-1 agreement {parity.top1_agreement_ratio:.3f}"
    return road.with_step("merged", event.time, detail).settled(event)


def _quantised(road: Road, event: Event[f.VariantQuantised]) -> Road:
    data = event.data
    if data.measurement_number > 1:  # the same files: a benchmark contradicted their record
        again = f"{data.variant}: measured again, perplexity x{data.quality.perplexity_ratio:.3f}"
        return road.with_step("benchmarked", event.time, again).settled(event, data.variant)
    detail = f"{data.variant}: perplexity x{data.quality.perplexity_ratio:.3f}, size x{data.size_ratio:.2f}"
    return road.with_step("quantised", event.time, detail).settled(event, data.variant)


def _variant_failed(road: Road, event: Event[f.VariantFailed]) -> Road:
    data, road = event.data, road.settled(event, event.data.variant)
    step = {"quantise": "quantised", "stage": "staged", "benchmark": "benchmarked"}[data.step]
    if data.measurement_number > 1:
        step = "benchmarked"
    earlier = road.steps.get(step)
    if earlier is not None and earlier.state == "done":
        return road.with_step(step, event.time, f"{data.variant}: {data.code}")
    return road.with_step(step, event.time, f"{data.variant}: {data.code}", "failed")


def _registered(road: Road, event: Event[f.VersionRegistered]) -> Road:
    return road.with_step("registered", event.time, f"version {event.data.version}")


def _staged(road: Road, event: Event[f.VariantStaged]) -> Road:
    data, road = event.data, road.settled(event, event.data.candidate.target.variant)
    if data.request.purpose != "benchmark" or data.request.measurement_number > 1:
        return road
    against = data.baseline.target
    detail = f"{data.candidate.target.variant} beside v{against.version}.{against.variant} in {data.load_s:.0f} s"
    return road.with_step("staged", event.time, detail)


def _benchmarked(road: Road, event: Event[f.VariantBenchmarked]) -> Road:
    data = event.data
    p95 = data.candidate_summary.ttft_ms.p95
    faults = "".join(f" ({one.code}: {one.attributed_to})" for one in data.gates if one.code and one.attributed_to)
    detail = f"{data.target.variant}: {data.verdict}{faults}" + ("" if p95 is None else f", TTFT p95 {p95:.0f} ms")
    return road.with_step("benchmarked", event.time, detail).settled(event, data.target.variant)


def _rehearsed(road: Road, event: Event[f.RehearsalCompleted]) -> Road:
    data = event.data
    took = [f"{one.trigger} back in {one.detect_s + one.switch_s:.1f} s" for one in data.certificates]
    if data.verdict == "pass":
        return road.with_step("rehearsed", event.time, ", ".join(took))
    return road.with_step("rehearsed", event.time, data.reason, "failed")


def _assessed(road: Road, event: Event[f.CanaryAssessed]) -> Road:
    data = event.data
    if data.verdict == "inconclusive":
        more = f"{data.requests} requests, {data.requests_needed} more needed"
        return road.with_step("canary", event.time, more, "running")
    state: State = "done" if data.verdict == "pass" else "failed"
    return road.with_step("canary", event.time, f"{data.verdict} after {data.requests} requests", state)


def _awaited(road: Road, event: Event[f.ApprovalRequested]) -> Road:
    detail = f"awaited until {event.data.deadline_at:%Y-%m-%d %H:%M} UTC"
    if "approved" in road.steps and road.steps["approved"].state == "done":
        return road
    return replace(road, manual=True).with_step("approved", event.time, detail, "running")


def _approved(road: Road, event: Event[f.ApprovalGranted]) -> Road:
    return replace(road, manual=True).with_step("approved", event.time, f"by {event.data.actor}")


def _deployed(road: Road, event: Event[f.DeploymentChanged]) -> Road:
    route = event.data.route
    for served in (route.active, route.canary.served if route.canary else None):
        if served is not None and served.target.version == road.version:
            road = road.settled(event, served.target.variant)
    if event.data.cause == "promote" and route.active is not None:
        return road.with_step("in traffic", event.time, f"{route.active.target} takes all traffic")
    if event.data.cause == "canary" and route.canary is not None:
        share = f"{route.canary.served.target} takes {route.canary.weight_ratio:.0%}"
        return road.with_step("canary", event.time, share, "running")
    return road


def _progressed(road: Road, event: Event[f.WorkProgressed]) -> Road:
    return road if road.outcome else replace(road, work=road.work.advance(event, road.variants))


def _finished(road: Road, event: Event[f.ReleaseFinished]) -> Road:
    data = event.data
    state: State = "done" if data.outcome == "promoted" else "failed"
    ended = replace(
        road,
        outcome=data.outcome,
        code=data.code,
        reason=data.reason,
        finished_at=event.time,
        work=AtWork(),
        release_id=data.release_id,
        version=data.version,
    )
    return ended.with_step("finished", event.time, data.outcome, state)


_BEGINNINGS = (f.CheckpointReady, f.ReleaseOpened, f.CheckpointRejected, f.ReleaseFinished)

_APPLY: dict[type, Callable[[Road, Any], Road]] = {
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
