"""How each event changes the progress of its release. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from contracts import facts as f
from contracts.envelope import Event
from decisions.release_holds import HoldOrder, newest_hold
from decisions.release_progress import ReleaseProgress, State
from decisions.suspensions import RETURNS
from decisions.work_progress import OngoingWork


def apply_event(release: ReleaseProgress, event: Event[Any]) -> ReleaseProgress:
    """Return the release after an event about it; one that is no part of its progress changes nothing."""
    apply = _APPLY.get(type(event.data))
    return release if apply is None else apply(release, event)


def apply_rollback(release: ReleaseProgress, event: Event[f.RollbackCompleted]) -> ReleaseProgress:
    """Return a release after a rollback in production; it changes the one that had promoted the version."""
    failed = event.data.failed
    if (failed.model, failed.version) != (release.model, release.version) or event.environment != "production":
        return release
    if release.outcome != "promoted":
        return release
    when = event.data.timeline.switched_at or event.time
    cause = "automatically" if event.data.mode == "automatic" else "by an operator"
    to = f" to {event.data.to}" if event.data.to is not None else ""
    return replace(release, rolled_back=f"{failed} was rolled back{to} {cause} at {when:%Y-%m-%d %H:%M:%S} UTC.")


def apply_return(release: ReleaseProgress, event: Event[f.DeploymentChanged]) -> ReleaseProgress:
    """Return a release after its version took all traffic again, for that of whom was rolled back."""
    active = event.data.route.active
    if active is None or (active.target.model, active.target.version) != (release.model, release.version):
        return release
    return replace(release, rolled_back="")


def inputs_of(fact: f.CheckpointReady | f.ReleaseOpened) -> tuple[str, ...]:
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
        inputs=inputs_of(data),
    )


def _opened(release: ReleaseProgress, event: Event[f.ReleaseOpened]) -> ReleaseProgress:
    data = event.data
    opened = replace(
        release,
        release_id=data.release_id,
        version=data.version,
        first=data.version == 1,  # a guess, until the first variant is staged beside what serves
        run_id=data.training.run_id,
        variants=tuple(data.variants),
        policy=data.policy,
        publishers=data.publishers,
        began_at=min(release.began_at, event.time),
        source_id=data.source_event_id,
        inputs=inputs_of(data),
        returns=data.returns is not None,
    )
    if data.returns is not None:
        opened = replace(opened, first=False)
        return opened.with_step("admitted", event.time, f"{data.returns.target} {RETURNS}")
    return opened.with_step("admitted", event.time, f"version {data.version} reserved")


def _rejected(release: ReleaseProgress, event: Event[f.CheckpointRejected]) -> ReleaseProgress:
    data = event.data
    step = "admitted" if event.origin == "registry" else "merged"
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
    detail = f"{data.variant}: perplexity x{data.quality.perplexity_ratio:.3f}, size x{data.size_ratio:.2f}"
    detail += " of the merged model" + (" (embeddings are not quantised)" if data.size_ratio < 1.0 else "")
    return release.with_answer("quantised", data.variant, event.time, detail).settled(event, data.variant)


def _variant_failed(release: ReleaseProgress, event: Event[f.VariantFailed]) -> ReleaseProgress:
    data, release = event.data, release.settled(event, event.data.variant)
    step = {"quantise": "quantised", "stage": "staged", "benchmark": "benchmarked"}[data.step]
    if step == "staged":  # what cannot be loaded is not benchmarked
        answered = {
            **release.answered,
            "benchmarked": release.answered.get("benchmarked", frozenset()) | {data.variant},
        }
        release = replace(release, answered=answered)
    return release.with_answer(step, data.variant, event.time, f"{data.variant}: {data.code}", "failed")


def _registered(release: ReleaseProgress, event: Event[f.VersionRegistered]) -> ReleaseProgress:
    names = tuple(registered.variant for registered in event.data.variants)
    return replace(release, registered=names).with_step("registered", event.time, f"version {event.data.version}")


def _staged(release: ReleaseProgress, event: Event[f.VariantStaged]) -> ReleaseProgress:
    data, release = event.data, release.settled(event, event.data.candidate.target.variant)
    if data.request.purpose != "benchmark":
        return release
    against = data.baseline.target
    release = replace(release, first=against.version == 0)
    detail = f"{data.candidate.target.variant} next to v{against.version}.{against.variant} in {data.load_s:.0f} s"
    return release.with_answer("staged", data.candidate.target.variant, event.time, detail)


def _benchmarked(release: ReleaseProgress, event: Event[f.VariantBenchmarked]) -> ReleaseProgress:
    data = event.data
    p95 = data.candidate_summary.ttft_ms.p95
    faults = "".join(f" ({gate.code}: {gate.attributed_to})" for gate in data.gates if gate.code and gate.attributed_to)
    detail = f"{data.target.variant}: {data.verdict}{faults}" + ("" if p95 is None else f", TTFT p95 {p95:.0f} ms")
    return release.with_answer("benchmarked", data.target.variant, event.time, detail).settled(
        event, data.target.variant
    )


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
        more = f"{data.requests} requests, {data.requests_needed} more needed{_name_unseen(data)}"
        return release.with_step("canary", event.time, more, "running")
    detail = f"{data.verdict} after {data.requests} requests{_name_unseen(data)}"
    if data.verdict != "pass":
        return release.with_step("canary", event.time, detail, "failed")
    release = replace(release, passed=release.passed | {data.weight_ratio})
    shares = {step.share for step in release.plan if step.step == "canary"}
    state: State = "done" if shares <= release.passed else "running"
    return release.with_step("canary", event.time, detail, state)


def _name_unseen(data: f.CanaryAssessed) -> str:
    """Return which triggers no request showed anything of; empty if there is none."""
    unseen = [name for name, counts in data.counts.items() if not counts.requests]
    return f", of which {' and '.join(unseen)} saw none" if unseen and data.requests else ""


def _shadowed(release: ReleaseProgress, event: Event[f.ShadowAssessed]) -> ReleaseProgress:
    data = event.data
    compared = f"{data.requests} requests compared"
    if data.verdict == "inconclusive":
        needed = [f"{data.requests_needed} more"] if data.requests_needed else []
        needed += [f"{data.seconds_needed:.0f} s"] if data.seconds_needed else []
        return release.with_step("shadow", event.time, f"{compared}, {' and '.join(needed)} needed", "running")
    state: State = "done" if data.verdict == "pass" else "failed"
    return release.with_step("shadow", event.time, f"{data.verdict} after {compared}", state)


def _passed_deadline(release: ReleaseProgress, event: Event[f.DeadlinePassed]) -> ReleaseProgress:
    """Show a shadow that the policy goes on without; a release that ends at a deadline says so at its end."""
    if event.data.step != "shadow" or event.data.waiting_for == "shadow":
        return release
    return release.with_step("shadow", event.time, "no verdict in time; the policy goes on without it")


def _awaited(release: ReleaseProgress, event: Event[f.ApprovalRequested]) -> ReleaseProgress:
    detail = f"waiting until {event.data.deadline_at:%Y-%m-%d %H:%M} UTC"
    if event.data.approvals > 1:
        detail = f"{len(release.approvers)} of {event.data.approvals} approvals, {detail}"
    if "approved" in release.steps and release.steps["approved"].state == "done":
        return release
    return release.with_step("approved", event.time, detail, "running")


def _approved(release: ReleaseProgress, event: Event[f.ApprovalGranted]) -> ReleaseProgress:
    policy = release.policy
    if policy is not None and policy.approvals.not_by_publisher and event.sender in release.publishers:
        return release  # it was refused
    if "approved" in release.steps and release.steps["approved"].state == "done":
        return release  # enough had approved
    release = replace(release, approvers=tuple(dict.fromkeys((*release.approvers, event.sender))))
    given, needed, names = len(release.approvers), policy.approvals.count if policy else 1, ", ".join(release.approvers)
    if given < needed:
        return release.with_step("approved", event.time, f"{given} of {needed} approvals, by {names}", "running")
    return release.with_step("approved", event.time, f"by {names}")


def _answered(release: ReleaseProgress, event: Event[f.OrderAccepted]) -> ReleaseProgress:
    """Keep the newest order that held the release or let it go on, as the registry accepted it."""
    details = event.data.details
    if event.data.order_type != f.ReleaseHeld.TYPE or not isinstance(details.get("paused"), bool):
        return release
    try:
        at = datetime.fromisoformat(str(details.get("at")))
    except ValueError:
        return release
    by, reason = str(details.get("by", "")), str(details.get("reason", ""))
    order = HoldOrder(at, event.data.order_id, details["paused"], by, reason)
    return replace(release, hold=newest_hold((release.hold, order)))


def _deployed(release: ReleaseProgress, event: Event[f.DeploymentChanged]) -> ReleaseProgress:
    route = event.data.route
    for served in (route.active, route.canary.served if route.canary else None, route.shadowed):
        if served is not None and served.target.version == release.version:
            release = release.settled(event, served.target.variant)
    if event.data.cause == "promote" and route.active is not None:
        return release.with_step("in traffic", event.time, f"{route.active.target} takes all traffic")
    if event.data.cause == "shadow" and route.shadow is not None:
        share = f"{route.shadow.served.target} is asked {route.shadow.share_ratio:.0%} unseen"
        return release.with_step("shadow", event.time, share, "running")
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


_APPLY: Mapping[type, Callable[[ReleaseProgress, Any], ReleaseProgress]] = {
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
    f.ShadowAssessed: _shadowed,
    f.CanaryAssessed: _assessed,
    f.DeadlinePassed: _passed_deadline,
    f.ApprovalRequested: _awaited,
    f.ApprovalGranted: _approved,
    f.OrderAccepted: _answered,
    f.DeploymentChanged: _deployed,
    f.WorkProgressed: _progressed,
    f.ReleaseFinished: _finished,
}
