"""The facts that a release must publish by now, in the order of its steps.

Everything here depends on the record alone, never on the order in which facts arrived.
"""

from collections.abc import Iterator
from datetime import datetime

from contracts.facts import (
    ApprovalRequested,
    DeadlinePassed,
    Fact,
    RegisteredVariant,
    RehearsalRequested,
    StageReleased,
    StageRequested,
    TrafficRequested,
    VariantRequested,
    VersionRegistered,
)
from contracts.vocabulary import Deployable, StagingPurpose, Target, Variant
from decisions.releases.calendar import later
from decisions.releases.plan import needs_approval, needs_evaluation, needs_rehearsal, needs_shadow, traffic_shares
from services.registry.domain import evaluations, gates, rehearsals
from services.registry.domain.approvals import is_approved
from services.registry.domain.record import SHADOW, Release, TurnGranted, weight_key

Emission = tuple[str, Fact]
"""A fact and its key within its release."""

ALL_TRAFFIC = weight_key(1.0)


def due(release: Release, now: datetime) -> Iterator[Emission]:
    """Yield every fact that is due by now in plan order, including published facts."""
    yield "release.opened", release.opened
    yield from _waived_deadlines(release)
    if release.opened.returns is not None:
        if release.turn is not None and not _is_back(release):
            yield from _traffic(release, release.turn, release.opened.returns)
        return
    if release.merged is None:
        return
    yield from _variant_requests(release)
    yield from _timed_out(release)
    if release.manifest is None or not gates.all_quantised(release):
        return
    yield "version.registered", _registered(release)
    if release.turn is None:
        return
    yield from _staging(release, release.turn)
    yield from _promotion(release, release.turn, now)


def _waived_deadlines(release: Release) -> Iterator[Emission]:
    for weight in release.waived:
        if weight == SHADOW:
            awaited = "shadow.assessed with a verdict; the policy goes on without it"
            yield f"deadline.passed:{SHADOW}", DeadlinePassed(release_id=release.id, step=SHADOW, waiting_for=awaited)
            continue
        awaited = f"canary.assessed at {weight}; the policy promotes without it"
        yield (
            f"deadline.passed:canary:{weight}",
            DeadlinePassed(release_id=release.id, step="canary", waiting_for=awaited),
        )
    for key in release.overdue:
        step, name = (SHADOW, SHADOW) if key == SHADOW else ("canary", f"canary:{key}")
        awaited = f"{step}.assessed with a verdict; a person decides: slipway promote, or slipway cancel"
        yield f"deadline.passed:{name}", DeadlinePassed(release_id=release.id, step=step, waiting_for=awaited)


def _variant_requests(release: Release) -> Iterator[Emission]:
    assert release.merged is not None  # noqa: S101 - for the type checker
    for variant in gates.requested_variants(release):
        yield (
            f"variant.requested:{variant}",
            VariantRequested(
                release_id=release.id,
                variant=variant,
                merged=release.merged.manifest,
                calibration=release.opened.calibration,
                gate=release.policy.quality.get(variant),
                evaluation=release.opened.evaluation,
            ),
        )


def _timed_out(release: Release) -> Iterator[Emission]:
    """Yield the failures of variants that missed the deadline, as if their quantiser had published them."""
    if not release.timed_out:
        return
    quantised = ", ".join(registered.variant for registered in gates.registered_variants(release))
    awaited = f"variant.quantised of {', '.join(release.timed_out)}; the release continues with {quantised}"
    passed = DeadlinePassed(release_id=release.id, step="quantise", waiting_for=awaited)
    yield "deadline.passed:quantise", passed
    for variant in release.timed_out:
        yield f"variant.failed:{variant}", release.failed[f"{variant}:quantise"]


def _registered(release: Release) -> VersionRegistered:
    assert release.manifest is not None  # noqa: S101 - for the type checker
    assert release.merged is not None  # noqa: S101 - for the type checker
    return VersionRegistered(
        version=release.version,
        manifest=release.manifest,
        base=release.opened.base,
        training=release.opened.training,
        evals=release.opened.evals,
        variants=gates.registered_variants(release),
        serving=release.merged.serving,
    )


def _staging(release: Release, turn: TurnGranted) -> Iterator[Emission]:
    for registered in gates.registered_variants(release):
        yield _benchmark_requested(release, turn, registered)
    for registered in gates.registered_variants(release):
        judged = gates.verdict_on(release, registered.variant) is not None
        if judged and not _keeps_lease(release, registered.variant):
            yield stage_released(release, registered.variant, "benchmark")


def _benchmark_requested(release: Release, turn: TurnGranted, registered: RegisteredVariant) -> Emission:
    """Return the request to load a variant beside the baseline and benchmark it."""
    variant = registered.variant
    return (
        f"stage.requested:{lease_key(variant, 'benchmark')}",
        StageRequested(
            release_id=release.id,
            candidate=gates.deployable(release, registered),
            baseline=turn.baseline,
            purpose="benchmark",
            load=release.policy.load,
            gates=release.policy.gates,
            evaluation=release.opened.evaluation,
            quality=registered.quality,
            quality_gate=release.policy.quality.get(variant),
            attempt=release.opened.attempt,
        ),
    )


def lease_key(variant: Variant, purpose: StagingPurpose) -> str:
    """Return the key of a staging lease within its release: `int8` or `int8:rehearsal`."""
    return variant if purpose == "benchmark" else f"{variant}:{purpose}"


def stage_released(release: Release, variant: Variant, purpose: StagingPurpose) -> Emission:
    """Return the fact that releases a variant's staging lease."""
    target = Target(model=release.model, version=release.version, variant=variant)
    released = StageReleased(release_id=release.id, candidate=target, purpose=purpose)
    return f"stage.released:{lease_key(variant, purpose)}", released


def _keeps_lease(release: Release, variant: Variant) -> bool:
    """Return whether a measured variant stays loaded: only the chosen one, and only if traffic follows at once.

    A lease held through an approval, a pause or a canary would block the fleet; releasing it just before traffic would
    load the model twice. Evaluation and rehearsal request leases of their own under the same rule.
    """
    chosen = gates.choose(release)
    direct = _goes_live_at_once(release) and not needs_rehearsal(release.policy)
    direct = direct and not needs_evaluation(release.policy)
    return chosen is not None and chosen.variant == variant and direct


def _goes_live_at_once(release: Release) -> bool:
    """Return whether the first traffic order follows without delay; afterwards the route keeps the target loaded."""
    return not needs_approval(release.policy) and not release.is_paused and not release.deployed


def _promotion(release: Release, turn: TurnGranted, now: datetime) -> Iterator[Emission]:
    chosen = gates.choose(release)
    if chosen is None:
        return
    target = gates.deployable(release, chosen)
    if needs_evaluation(release.policy):
        yield (
            f"stage.requested:{lease_key(target.target.variant, 'evaluation')}",
            StageRequested(
                release_id=release.id,
                candidate=target,
                baseline=turn.baseline,
                purpose="evaluation",
                load=release.policy.load,
                evaluation=release.opened.evaluation,
                evaluations=release.policy.evaluations,
                anchors=turn.anchors,
                attempt=release.opened.attempt,
            ),
        )
        evaluated = evaluations.assess_evaluations(release)
        if evaluated is None or evaluated[0] != "pass":
            return
        if needs_rehearsal(release.policy) or not _goes_live_at_once(release):
            yield stage_released(release, chosen.variant, "evaluation")
    if needs_rehearsal(release.policy):
        yield from _rehearsal(release, turn, target)
        rehearsal = rehearsals.assess_rehearsal(release, now)
        if rehearsal is None or rehearsal[0] != "pass":
            return
        if not _goes_live_at_once(release):
            yield stage_released(release, chosen.variant, "rehearsal")
    if needs_approval(release.policy):
        deadline_at = later(now, release.policy.promotion.approval_deadline_s)
        yield (
            "approval.requested",
            ApprovalRequested(
                release_id=release.id,
                target=target.target,
                manifest_digest=target.manifest.digest,
                deadline_at=deadline_at,
                approvals=release.policy.approvals.count,
            ),
        )
        if not is_approved(release, target.manifest.digest):
            return
    yield from _traffic(release, turn, target)


def _rehearsal(release: Release, turn: TurnGranted, target: Deployable) -> Iterator[Emission]:
    """Yield the requests for the rollback rehearsal and then for its staged targets, so that the log has it first."""
    yield (
        "rehearsal.requested",
        RehearsalRequested(
            release_id=release.id,
            candidate=target,
            fallback=turn.baseline,
            triggers=release.policy.rehearsed,
            policy_digest=rehearsals.policy_digest(release),
            valid_s=release.policy.rehearsal_valid_s,
        ),
    )
    yield (
        f"stage.requested:{lease_key(target.target.variant, 'rehearsal')}",
        StageRequested(
            release_id=release.id,
            candidate=target,
            baseline=turn.baseline,
            purpose="rehearsal",
            load=release.policy.load,
            attempt=release.opened.attempt,
        ),
    )


def _traffic(release: Release, turn: TurnGranted, target: Deployable) -> Iterator[Emission]:
    epoch = turn.epoch
    if has_shadow(release):
        yield from _orders(release, turn, target, 0.0, epoch)
        begun = release.deployed.get(SHADOW)
        if begun is None or not passed_shadow(release):
            return
        epoch = begun.epoch
    for weight in weights(release):
        key = weight_key(weight)
        yield from _orders(release, turn, target, weight, epoch)
        deployed = release.deployed.get(key)
        if deployed is None or not passed_canary(release, key):
            return
        epoch = deployed.epoch


def _orders(release: Release, turn: TurnGranted, target: Deployable, weight: float, epoch: int) -> Iterator[Emission]:
    """Yield the order for a traffic share, and its repetition for a newer route."""
    key = f"traffic.requested:{weight_key(weight) if weight else SHADOW}"
    yield key, _traffic_order(release, turn, target, weight, epoch)
    if release.route is not None and release.route.epoch > epoch and is_ordered_again(release):
        yield f"{key}:{release.route.epoch}", _traffic_order(release, turn, target, weight, release.route.epoch)


def is_ordered_again(release: Release) -> bool:
    """Return whether the order that begins the shadow or canary was refused as stale and is repeated.

    Shadow and canary are compared with any active target. Full traffic and a rehearsed rollback hold only for the
    measured baseline. A newer version that serves is never replaced.
    """
    stale = release.refused is not None and release.refused.code == "stale_epoch" and not release.deployed
    if not stale or outstanding_order(release) in (None, ALL_TRAFFIC) or needs_rehearsal(release.policy):
        return False
    return release.route is None or all(target.version < release.version for target in release.route.serving)


def _traffic_order(
    release: Release, turn: TurnGranted, target: Deployable, weight: float, epoch: int
) -> TrafficRequested:
    """Return the order for a traffic share; weight 0 starts the shadow."""
    shadow = release.policy.shadow
    fallback = turn.baseline if turn.first and release.policy.no_previous == "base" else None
    return TrafficRequested(
        release_id=release.id,
        target=target,
        weight_ratio=weight,
        epoch=epoch,
        fallback=fallback,
        pair_ratio=release.policy.pairs.share_ratio,
        copies=release.policy.copies if weight > 0.0 else 1,
        shadow_ratio=shadow.share_ratio if shadow is not None and weight == 0.0 else 0.0,
        only_for=release.policy.canary.only_for if weight in release.policy.canary.steps[:1] else (),
    )


def chosen_target(release: Release) -> Target | None:
    """Return the target that is to take traffic: the chosen variant, or the returning target."""
    if release.opened.returns is not None:
        return release.opened.returns.target
    chosen = gates.choose(release)
    return gates.deployable(release, chosen).target if chosen else None


def weights(release: Release) -> tuple[float, ...]:
    """Return the release's traffic shares in order; a first release goes straight to 1."""
    return traffic_shares(release.policy, first=is_first(release))


def is_first(release: Release) -> bool:
    """Return whether the model had no active target when this release's turn came."""
    return release.turn is not None and release.turn.first


def has_shadow(release: Release) -> bool:
    """Return whether the release is tried as a shadow before it takes traffic."""
    return release.opened.returns is None and needs_shadow(release.policy, first=is_first(release))


def passed_shadow(release: Release) -> bool:
    """Return whether a release may leave the shadow step.

    Either the shadow passed, or an operator advanced the release, or the deadline passed with `on_deadline: continue`.
    """
    shadowed = release.shadowed
    is_told = SHADOW in release.waived or weight_key(0.0) in release.advanced
    return is_told or (shadowed is not None and shadowed.verdict == "pass")


def passed_canary(release: Release, key: str) -> bool:
    """Return whether a deployed share may be followed by the next."""
    if key == ALL_TRAFFIC:
        return True
    assessed = release.assessed.get(key)
    return key in release.waived or key in release.advanced or (assessed is not None and assessed.verdict == "pass")


def is_followed(release: Release, key: str) -> bool:
    """Return whether a larger traffic share was ordered; for the shadow, any share."""
    if key == SHADOW:
        return any(f"traffic.requested:{weight_key(weight)}" in release.emitted for weight in weights(release))
    shares = [weight_key(weight) for weight in weights(release)]
    later = shares[shares.index(key) + 1 :] if key in shares else []
    return any(f"traffic.requested:{share}" in release.emitted for share in later)


def _is_back(release: Release) -> bool:
    """Return whether the returning target was active already when this release's turn came."""
    returns, turn = release.opened.returns, release.turn
    return returns is not None and turn is not None and turn.baseline.target == returns.target


def is_promoted(release: Release, now: datetime) -> bool:
    """Return whether the release is promoted: all its traffic is deployed, or its returning target is active."""
    if _is_back(release):
        return True
    if ALL_TRAFFIC not in release.deployed:
        return False
    return any(key == f"traffic.requested:{ALL_TRAFFIC}" for key, _ in due(release, now))


def outstanding_order(release: Release) -> str | None:
    """Return the traffic share that was ordered but not deployed; None if no order is open."""
    ordered = [SHADOW] if has_shadow(release) else []
    for key in (*ordered, *(weight_key(weight) for weight in weights(release))):
        if f"traffic.requested:{key}" in release.emitted and key not in release.deployed:
            return key
    return None
