"""Writes each input into its field of the release's record; the first input of a kind wins."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from contracts.facts import (
    CanaryAssessed,
    CheckpointMerged,
    CheckpointRejected,
    DeploymentChanged,
    PromotionRefused,
    RehearsalCompleted,
    ShadowAssessed,
    VariantBenchmarked,
    VariantEvaluated,
    VariantFailed,
    VariantQuantised,
    VariantRequested,
    VariantStaged,
    WorkAbandoned,
)
from contracts.routes import Route
from contracts.vocabulary import Target
from services.registry.domain import admission, deadlines, evaluations, gates, plan, rehearsals
from services.registry.domain.orders import keep_order
from services.registry.domain.record import (
    SHADOW,
    DeadlineReached,
    Deployed,
    Input,
    ManifestWritten,
    Order,
    Release,
    RouteSeen,
    Superseded,
    TurnGranted,
    weight_key,
)

Changes = dict[str, Any]


def record(release: Release, received: Input, now: datetime) -> Release | None:
    """Return the record with an input in its field; None if nothing changes."""
    if isinstance(received.data, DeadlineReached):
        return _deadline(release, received.data, received.at, now)
    if isinstance(received.data, Order):
        return keep_order(release, received.data, received)
    recorder = _RECORDERS.get(type(received.data))
    if recorder is None:
        return None
    name, changes = recorder(release, received.data) or ("", {})
    if not changes:
        return None
    if name and name not in release.times:
        changes = {**changes, "times": {**release.times, name: received.at}}
    return release.model_copy(update=changes)


Recorded = tuple[str, Changes] | None
"""Name of the timeline entry (may be empty) and the changed fields; None if nothing changes."""


def _merged(release: Release, fact: CheckpointMerged) -> Recorded:
    """Keep the merged model; reject it if its serving settings differ from the published ones."""
    if release.merged:
        return None
    rejected = admission.assess_proved_settings(release.opened, fact)
    return ("merged", {"merged": fact}) if rejected is None else _rejected(release, rejected)


def _quantised(release: Release, fact: VariantQuantised) -> Recorded:
    variant = fact.variant
    if variant not in gates.not_quantised(release):
        return None
    return f"quantised:{variant}", {"quantised": {**release.quantised, variant: fact}}


def _failed(release: Release, fact: VariantFailed) -> Recorded:
    """Keep a failure under the step that it ends.

    A staging failure names its purpose, so that a late benchmark failure is not taken for the rehearsal's.
    """
    if fact.step == "stage" and fact.purpose == "rehearsal":
        return _unrehearsed(release, fact)
    if fact.step == "evaluate" or (fact.step == "stage" and fact.purpose == "evaluation"):
        return _not_evaluated(release, fact)
    variant, key = fact.variant, f"{fact.variant}:{fact.step}"
    if key in release.failed or variant not in gates.requested_variants(release):
        return None
    judged = variant in release.staged and variant in release.benchmarked
    if (fact.step == "quantise" and variant in release.quantised) or (fact.step != "quantise" and judged):
        return None
    return f"failed:{variant} {fact.step}", {"failed": {**release.failed, key: fact}}


def _unrehearsed(release: Release, fact: VariantFailed) -> Recorded:
    variant, key = fact.variant, rehearsals.failure_key(fact.variant)
    if key in release.failed or release.rehearsed is not None or variant not in gates.requested_variants(release):
        return None
    return f"failed:{variant} rehearsal", {"failed": {**release.failed, key: fact}}


def _not_evaluated(release: Release, fact: VariantFailed) -> Recorded:
    variant, key = fact.variant, evaluations.failure_key(fact.variant)
    if key in release.failed or release.evaluated is not None or variant not in gates.requested_variants(release):
        return None
    return f"failed:{variant} evaluate", {"failed": {**release.failed, key: fact}}


def _manifest(release: Release, data: ManifestWritten) -> Recorded:
    return None if release.manifest else ("registered", {"manifest": data.ref})


def _turn(release: Release, data: TurnGranted) -> Recorded:
    return None if release.turn else ("in progress", {"turn": data})


def _staged(release: Release, fact: VariantStaged) -> Recorded:
    target = fact.candidate.target
    if fact.request.purpose != "benchmark" or not release.is_ours(target):
        return None
    if target.variant in release.staged:
        return None
    return f"staged:{target.variant}", {"staged": tuple(sorted((*release.staged, target.variant)))}


def _benchmarked(release: Release, fact: VariantBenchmarked) -> Recorded:
    variant = fact.target.variant
    failed = {f"{variant}:stage", f"{variant}:benchmark"} & set(release.failed)
    if not release.is_ours(fact.target) or variant in release.benchmarked or failed:
        return None
    return f"benchmarked:{variant}", {"benchmarked": {**release.benchmarked, variant: fact}}


def _evaluated(release: Release, fact: VariantEvaluated) -> Recorded:
    failed = evaluations.failure_key(fact.target.variant) in release.failed
    if release.evaluated is not None or failed or not release.is_ours(fact.target):
        return None
    return "evaluated", {"evaluated": fact}


def _rehearsed(release: Release, fact: RehearsalCompleted) -> Recorded:
    return None if release.rehearsed else ("rehearsed", {"rehearsed": fact})


def _deployed(release: Release, fact: DeploymentChanged) -> Recorded:
    route = fact.route
    if route.model != release.model:
        return None
    changes: Changes = {}
    if release.route is None or route.epoch > release.route.epoch:
        changes["route"] = _seen(route)
    order = _carried_out(release, fact)
    if order is None or order[0] in release.deployed:
        return "", changes
    key, target = order
    deployed = {**release.deployed, key: Deployed(epoch=route.epoch, target=target)}
    changes |= {"deployed": deployed, "refused": None}  # clears the refusal of an order that was repeated
    return f"deployed:{key}", changes


def _carried_out(release: Release, fact: DeploymentChanged) -> tuple[str, Target] | None:
    active, canary, shadow = fact.route.active, fact.route.canary, fact.route.shadowed
    if fact.cause == "promote" and active is not None and release.is_ours(active.target):
        return plan.ALL_TRAFFIC, active.target
    if fact.cause == "shadow" and shadow is not None and release.is_ours(shadow.target):
        return SHADOW, shadow.target
    if fact.cause == "canary" and canary is not None and release.is_ours(canary.served.target):
        return weight_key(canary.weight_ratio), canary.served.target
    return None


def _seen(route: Route) -> RouteSeen:
    serving = tuple(served.target for role, served in route.by_role.items() if role != "previous")
    barred = (*route.quarantined, *(entry.served.target for entry in route.suspended if not entry.returned_by))
    return RouteSeen(epoch=route.epoch, serving=serving, quarantined=barred)


def _assessed(release: Release, fact: CanaryAssessed) -> Recorded:
    """Keep the verdict on a share; a failure replaces a pass until the next share is ordered."""
    key = weight_key(fact.weight_ratio)
    known = release.assessed.get(key)
    if fact.verdict == "inconclusive" or not release.is_ours(fact.target):
        return None
    if known is not None and (known.verdict, fact.verdict) != ("pass", "fail"):
        return None
    if known is not None and plan.is_followed(release, key):
        return None
    return f"assessed:{key}", {"assessed": {**release.assessed, key: fact}}


def _shadowed(release: Release, fact: ShadowAssessed) -> Recorded:
    """Keep the verdict on the shadow; a failure replaces a pass until traffic is ordered."""
    known = release.shadowed
    if fact.verdict == "inconclusive" or not release.is_ours(fact.target):
        return None
    if known is not None and ((known.verdict, fact.verdict) != ("pass", "fail") or plan.is_followed(release, SHADOW)):
        return None
    return f"{SHADOW} assessed", {"shadowed": fact}


def _rejected(release: Release, fact: CheckpointRejected) -> Recorded:
    return None if release.rejected else ("rejected", {"rejected": fact})


def _refused(release: Release, fact: PromotionRefused) -> Recorded:
    outstanding = plan.outstanding_order(release) is not None
    if (release.refused and not plan.is_ordered_again(release)) or not outstanding or not release.is_ours(fact.target):
        return None
    return "refused", {"refused": fact}


def _abandoned(release: Release, fact: WorkAbandoned) -> Recorded:
    """Keep an abandoned job, unless it belongs to a variant that timed out."""
    if release.abandoned or (release.timed_out and fact.cause_type == VariantRequested.TYPE):
        return None
    return "abandoned", {"abandoned": fact}


def _superseded(release: Release, data: Superseded) -> Recorded:
    return None if release.superseded else ("superseded", {"superseded": data})


def _deadline(release: Release, data: DeadlineReached, received_at: datetime, now: datetime) -> Release | None:
    """Apply a deadline if its step is still awaited and its time has passed."""
    at = deadlines.deadline_at(release)
    if at is None or now < at or deadlines.awaited_step(release) != data.step:
        return None
    if data.step == "quantise" and gates.registered_variants(release):
        return _time_out(release, received_at)
    if data.step == SHADOW and release.policy.shadow is not None and release.policy.shadow.on_deadline == "continue":
        return release.model_copy(update={"waived": (*release.waived, SHADOW)})
    weight = deadlines.awaited_weight(release) if data.step == "canary" else None
    if weight is not None and release.policy.canary.on_deadline == "promote":
        return release.model_copy(update={"waived": (*release.waived, weight)})
    key = SHADOW if data.step == SHADOW else weight
    if key is not None:  # missing evidence ends no release: an operator decides
        return release.model_copy(update={"overdue": (*release.overdue, key)})
    return release.model_copy(update={"expired": data.step})


def _time_out(release: Release, at: datetime) -> Release:
    """Fail the variants that are not quantised, so that the release continues with the others."""
    late = {variant: deadlines.too_late(release, variant) for variant in gates.not_quantised(release)}
    return release.model_copy(
        update={
            "timed_out": tuple(late),
            "failed": {**release.failed, **{f"{variant}:quantise": fact for variant, fact in late.items()}},
            "times": {**release.times, **{f"failed:{variant} quantise": at for variant in late}},
        }
    )


_RECORDERS: dict[type, Callable[[Release, Any], Recorded]] = {
    CheckpointMerged: _merged,
    VariantQuantised: _quantised,
    VariantFailed: _failed,
    ManifestWritten: _manifest,
    TurnGranted: _turn,
    VariantStaged: _staged,
    VariantBenchmarked: _benchmarked,
    VariantEvaluated: _evaluated,
    RehearsalCompleted: _rehearsed,
    DeploymentChanged: _deployed,
    CanaryAssessed: _assessed,
    ShadowAssessed: _shadowed,
    CheckpointRejected: _rejected,
    PromotionRefused: _refused,
    WorkAbandoned: _abandoned,
    Superseded: _superseded,
}
