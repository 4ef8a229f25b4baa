"""The step that a release waits for: its start, its limit and its deadline."""

from datetime import datetime

from contracts.facts import VariantFailed
from contracts.vocabulary import Variant
from decisions.releases.calendar import later
from decisions.releases.plan import ROWS, PlannedStep, Step, next_step, plan_release
from services.registry.domain import evaluations, gates, plan
from services.registry.domain.record import SHADOW, Release, weight_key
from services.registry.domain.release_holds import start_of_deadline


def awaited_step(release: Release) -> Step | None:
    """Return the step that a release waits for; None once it is finished.

    After the last step this is `canary`, until the release is finished.
    """
    if release.finished is not None:
        return None
    following = next_step(plan_of(release), done(release))
    return "canary" if following is None else following.step


def plan_of(release: Release) -> tuple[PlannedStep, ...]:
    """Return the steps of a release in order."""
    return plan_release(release.policy, first=plan.is_first(release), returns=release.opened.returns is not None)


def is_at_work(release: Release) -> bool:
    """Return whether a release occupies a worker: merge, quantise, stage or measure.

    A paused release counts until its open requests are answered.
    """
    step = awaited_step(release)
    if step in ("merge", "register"):
        return True
    requests = {
        "quantise": [f"variant.requested:{variant}" for variant in gates.not_quantised(release)],
        "stage": _stage_requests(release),
        "benchmark": _stage_requests(release),
        "evaluate": [
            f"stage.requested:{plan.lease_key(name, 'evaluation')}" for name in gates.requested_variants(release)
        ],
    }
    return step in requests and any(request in release.emitted for request in requests[step])


def _stage_requests(release: Release) -> list[str]:
    """Return the key of the staging request for each variant without a verdict."""
    return [f"stage.requested:{plan.lease_key(variant, 'benchmark')}" for variant in unjudged(release)]


def is_leaving(release: Release, in_progress: str | None) -> bool:
    """Return whether a release is in progress for its model and waits for its team's turn."""
    return release.id == in_progress and awaited_step(release) == "queue"


def done(release: Release) -> frozenset[PlannedStep]:
    """Return the finished steps of the plan."""
    judged, evaluated = gates.all_judged(release), evaluations.assess_evaluations(release)
    staged = any(variant in release.staged for variant in unjudged(release))
    known: dict[Step, bool] = {
        "merge": release.merged is not None,
        "quantise": gates.all_quantised(release),
        "register": release.manifest is not None,
        "queue": release.turn is not None,
        "stage": judged or staged,
        "benchmark": judged,
        "evaluate": evaluated is not None and evaluated[0] == "pass",
        "rehearsal": release.rehearsed is not None,
        "approval": any(key.startswith("traffic.requested:") for key in release.emitted),
    }
    traffic = _shadow_done(release)
    shares = plan.weights(release)
    deployed = [PlannedStep("traffic", share) for share in shares if weight_key(share) in release.deployed]
    passed = [PlannedStep("canary", share) for share in shares if plan.passed_canary(release, weight_key(share))]
    return frozenset((*(PlannedStep(step) for step, is_done in known.items() if is_done), *traffic, *deployed, *passed))


def _shadow_done(release: Release) -> list[PlannedStep]:
    """Return the finished steps of the shadow."""
    if SHADOW not in release.deployed:
        return []
    begun = PlannedStep("traffic", 0.0)
    return [begun, PlannedStep("shadow")] if plan.passed_shadow(release) else [begun]


def unjudged(release: Release) -> list[Variant]:
    """Return the registered variants without a staging verdict."""
    registered = [registered.variant for registered in gates.registered_variants(release)]
    return [variant for variant in registered if gates.verdict_on(release, variant) is None]


def awaited_key(release: Release) -> str | None:
    """Return the traffic share, or `shadow`, whose verdict is pending; None if there is none."""
    return SHADOW if awaited_step(release) == SHADOW else awaited_weight(release)


def awaited_weight(release: Release) -> str | None:
    """Return the key of the deployed canary share without a verdict; None if no canary is under way."""
    for weight in plan.weights(release):
        key = weight_key(weight)
        if key in release.deployed and not plan.passed_canary(release, key):
            return key
    return None


def since(release: Release, step: Step) -> datetime:
    """Return the start of the wait for a step: its request, or the latest partial answer."""
    row, recorded = ROWS[step], {**release.emitted, **release.times}
    moments = [at for key, at in recorded.items() if key.partition(":")[0] in (row.begins, *row.restarts)]
    return max(moments, default=release.opened_at)


def allowed_s(release: Release, step: Step) -> float:
    """Return the seconds that the policy allows for a step."""
    return ROWS[step].limit_s(release.policy)


def deadline_at(release: Release) -> datetime | None:
    """Return the deadline of the awaited step; None if finished, paused or waiting for an operator."""
    step = awaited_step(release)
    if step is None or release.is_paused or awaited_key(release) in release.overdue:
        return None
    return later(start_of_deadline(since(release, step), release.hold_order), allowed_s(release, step))


def too_late(release: Release, variant: Variant) -> VariantFailed:
    """Return the failure of a variant that missed the quantisation deadline."""
    reason = (
        f"It was not quantised within the {allowed_s(release, 'quantise'):g} s of the policy. Add quantisers or raise "
        "deadlines.quantise_s, then publish with a higher attempt."
    )
    return VariantFailed(variant=variant, step="quantise", code="deadline_passed", reason=reason)
