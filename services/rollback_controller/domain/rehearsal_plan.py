"""Plans the faults of rehearsals, and assesses their results. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from contracts.envelope import Event
from contracts.facts import (
    DrillFault,
    RehearsalCertificate,
    RehearsalCompleted,
    RehearsalRequested,
    RollbackTimeline,
    VariantStaged,
)
from contracts.policy import FALSE_ALARM_EVERY, Trigger
from contracts.routes import Route, ServedTarget
from contracts.trigger_metrics import LONGEST_DELAY_MS
from contracts.vocabulary import Digest, Runtime
from decisions.evidence.block_tests import BLOCK_S, LEAST_REQUESTS, count_bad_blocks, plan_line
from decisions.evidence.triggers import limit_of
from decisions.rollback.drills import describe_detection, describe_fault
from decisions.rollback.rule import rollback_id
from services.rollback_controller.domain import execution
from services.rollback_controller.domain.decision import start
from services.rollback_controller.domain.record import REHEARSALS_KEPT, Rollback, RollbackState

REQUESTS_AT_ONCE = 64
"""Maximum concurrent requests of a rehearsal."""
_SLOWER = 1.5
_TRIGGERS = 16
"""Number of triggers assumed in the advice (a policy's maximum)."""
_MARGIN_S = 60.0
"""Seconds for telemetry, monitor and switch in addition to the answers, in the advice."""


@dataclass(frozen=True)
class Load:
    """The traffic of a rehearsal: requests per second, and tokens of each answer."""

    rps: float = 4.0
    tokens: int = 4


def plan_fault(trigger: Trigger) -> DrillFault | None:
    """Return the fault that a trigger must detect; None for drift, which no short fault can cause."""
    fault = trigger.rule.fault
    given = {name: value(trigger) if callable(value) else value for name, value in fault.items()}
    return DrillFault.model_validate(given) if fault else None


def assess_fault(trigger: Trigger, fault: DrillFault | None, load: Load, detect_s: float) -> str:
    """Return why a trigger cannot be rehearsed within `detect_s`; empty if it can."""
    if fault is None:
        return f"{trigger.name}: {trigger.metric} cannot be rehearsed by a fault; declare it manual."
    if answer_s(fault, load) < detect_s:
        return ""
    return (
        f"{trigger.name}: it cannot be rehearsed: an answer under the fault {describe_fault(fault)} takes "
        f"{answer_s(fault, load):g} s, and its alert must come within {detect_s:g} s. "
        f"{advise_time(trigger, fault, load, detect_s)}"
    )


def advise_time(trigger: Trigger, fault: DrillFault, load: Load, detect_s: float) -> str:
    """Return advice for a trigger without an alert within `detect_s`."""
    delay_s = answer_s(fault, load)
    blocks = count_bad_blocks(limit_of(trigger), plan_line(FALSE_ALARM_EVERY, _TRIGGERS))
    requests = blocks * max(LEAST_REQUESTS, BLOCK_S * load.rps)
    rounds_s = math.ceil(requests / REQUESTS_AT_ONCE) * delay_s
    needed_s = math.ceil(max(rounds_s, delay_s + requests / load.rps) + _MARGIN_S)
    if needed_s <= detect_s:
        return "See the alerts of staging: `slipway alerts --environment staging --all`."
    return (
        f"{requests:g} requests, {load.rps:g} a second and {REQUESTS_AT_ONCE} at once, take up to {needed_s} s under "
        f"this fault: set ROLLBACK_CONTROLLER_REHEARSAL_DETECT_S to {needed_s}, lower the threshold or the share that "
        "is allowed, or declare the trigger manual."
    )


def answer_s(fault: DrillFault, load: Load) -> float:
    """Return the seconds that a fault adds to an answer of a rehearsal."""
    between = max(0, load.tokens - 1) * fault.token_delay_ms
    return (fault.delay_ms + fault.queue_delay_ms + between) / 1000


def plan_staging_route(
    before: Route | None, model: str, candidate: ServedTarget | None, fallback: ServedTarget | None, *, cause_id: str
) -> Route:
    """Return the next staging route: candidate active, fallback previous; None clears either."""
    epoch = before.epoch + 1 if before is not None else 1
    return Route(model=model, epoch=epoch, active=candidate, previous=fallback, cause_id=cause_id)


def allow_as_before(trigger: Trigger, seconds: Sequence[float], load: Load) -> Trigger:
    """Return the trigger for verifying the fallback, with a threshold of at least 1.5 times its slowest answer before.

    So a slow machine, on which the fallback exceeds the declared threshold anyway, does not fail the verification.

    Args:
        trigger: The trigger under rehearsal.
        seconds: Duration of each fallback answer before the fault; empty unless the trigger is on latency.
        load: The traffic of the rehearsal.
    """
    if not seconds:
        return trigger
    slowest_ms = 1000 * max(seconds) / (load.tokens if "token_delay_ms" in trigger.rule.fault else 1)
    allowed_ms = min(_SLOWER * slowest_ms, LONGEST_DELAY_MS / 3)
    return trigger.model_copy(update={"threshold": max(trigger.threshold, allowed_ms)})


def replace_trigger(state: RollbackState, version: int, trigger: Trigger) -> RollbackState:
    """Return staging's record with a version's trigger of this name replaced, if its policy is recorded."""
    declared = state.triggers.get(str(version))
    if declared is None:
        return state
    replaced = tuple(trigger if known.name == trigger.name else known for known in declared)
    return state.model_copy(update={"triggers": {**state.triggers, str(version): replaced}})


def start_rehearsal(state: RollbackState, trigger: str, now: datetime, since: int = 0) -> RollbackState:
    """End and remove all rollbacks in staging's record, and set the trigger under rehearsal.

    Args:
        state: Staging's record.
        trigger: The trigger under rehearsal; empty for none.
        now: The time of the decision.
        since: Only alerts after this sequence number of the log belong to the rehearsal.
    """
    state = execution.end_all(state, "Staging was cleared before this rollback ended.", now)
    return state.model_copy(
        update={
            "rehearsing": trigger,
            "rehearsing_since": since,
            "rollbacks": (),
            "held": {},
        }
    )


def record_request(state: RollbackState, requested: RehearsalRequested) -> RollbackState:
    """Record a release's rehearsal request; the first one stays."""
    if requested.release_id in state.rehearsals:
        return state
    rehearsals = dict([*state.rehearsals.items(), (requested.release_id, requested)][-REHEARSALS_KEPT:])
    return state.model_copy(update={"rehearsals": rehearsals})


def record_outcome(state: RollbackState, completed: RehearsalCompleted) -> RollbackState:
    """Record the outcome of a release's rehearsal; the first one stays."""
    if completed.release_id in state.rehearsed:
        return state
    rehearsed = dict([*state.rehearsed.items(), (completed.release_id, completed)][-REHEARSALS_KEPT:])
    return state.model_copy(update={"rehearsed": rehearsed})


def find_detections(
    state: RollbackState, requested: RehearsalRequested, runtime: Runtime | None, now: datetime
) -> tuple[RehearsalCertificate, ...]:
    """Return an earlier release's certificates that prove detection for every trigger; empty without such a release.

    They must have the same policy and runtime, and be younger than half of the requested validity.
    """
    names = {trigger.name for trigger in requested.triggers}
    since = now - timedelta(seconds=requested.valid_s / 2)
    for release_id, completed in reversed(state.rehearsed.items()):
        valid = tuple(
            _detected_with(certificate, state.rehearsals.get(release_id))
            for certificate in completed.certificates
            if (certificate.policy_digest, certificate.runtime) == (requested.policy_digest, runtime)
            and certificate.injected_at >= since
        )
        if completed.verdict == "pass" and names == {each.trigger for each in valid if each.detected_with is not None}:
            return valid
    return ()


def _detected_with(certificate: RehearsalCertificate, requested: RehearsalRequested | None) -> RehearsalCertificate:
    if certificate.detected_with is not None or requested is None:
        return certificate
    return certificate.model_copy(update={"detected_with": requested.candidate.target.version})


def find_rollback(state: RollbackState, trigger: str) -> Rollback | None:
    """Return the last rollback in staging by a trigger; None without one.

    An empty `trigger` selects the rehearsed switch.
    """
    return next((rollback for rollback in reversed(state.rollbacks) if rollback.trigger == trigger), None)


def start_switch(state: RollbackState, cause: Event[VariantStaged], replicas: int, now: datetime) -> RollbackState:
    """Return staging's record with a rollback of the candidate, like an alert's, but without a trigger.

    Its verification counts answered requests.
    """
    started = Rollback(
        rollback_id=rollback_id(f"{cause.id}/switch/{now.isoformat()}"),
        cause_id=cause.id,
        correlation_id=cause.correlationid,
        origin="alert",
        mode="automatic",
        failed=cause.data.candidate.target,
        timeline=RollbackTimeline(detected_at=now, decided_at=now),
        reason="The switch is rehearsed.",
        replicas=replicas,
    )
    return start(state, started)


def assess_switch(
    detections: Sequence[RehearsalCertificate],
    rollback: Rollback,
    *,
    candidate: Digest,
    fallback: Digest,
    expires_at: datetime,
) -> tuple[RehearsalCertificate, ...] | str:
    """Return the certificates of a verified switch, with earlier detections; else the reason for none."""
    unproven = _why_unproven("the switch", rollback)
    if unproven:
        return unproven
    update = {"candidate_digest": candidate, "fallback_digest": fallback, "expires_at": expires_at}
    return tuple(each.model_copy(update={**_times(rollback), **update}) for each in detections)


def _why_unproven(name: str, rollback: Rollback) -> str:
    """Return why a rollback proves nothing; empty if it switched and was verified."""
    begun = "it began" if not rollback.alert_id else "the alert came"
    if rollback.phase == "failed":
        return f"{name}: {begun}, but the rollback failed ({rollback.code})."
    if rollback.timeline.switched_at is None:
        return f"{name}: {begun}, but traffic was not switched in time."
    if rollback.verdict != "pass" or rollback.timeline.verified_at is None:
        verdict = rollback.verdict or "no verdict"
        return f"{name}: traffic was switched, but the fallback was not verified ({verdict})."
    return ""


def _times(rollback: Rollback) -> dict[str, Any]:
    """Return the certificate's fields about a verified switch; durations in seconds."""
    timeline = rollback.timeline
    switched_at = timeline.switched_at or timeline.detected_at
    return {
        "route_event_id": rollback.route_event_id,
        "switch_s": _seconds(switched_at - timeline.detected_at),
        "verify_s": _seconds((timeline.verified_at or switched_at) - switched_at),
    }


def summarise(certificates: Sequence[RehearsalCertificate], repeated: Sequence[str]) -> str:
    """Return the reason text of a passed rehearsal."""
    names = ", ".join(certificate.trigger for certificate in certificates)
    before = describe_detection(certificates[0]) if certificates else ""
    if before:
        return f"Switched and verified in staging; {before}: {names}."
    again = f" Fired before the fault, and rehearsed again: {', '.join(repeated)}." if repeated else ""
    return f"Detected, switched and verified in staging: {names}.{again}"


def assess_rehearsal(
    trigger: Trigger,
    fault: DrillFault,
    rollback: Rollback,
    injected_at: datetime,
    *,
    candidate: Digest,
    fallback: Digest,
    policy: Digest | None,
    expires_at: datetime,
    runtime: Runtime | None = None,
) -> RehearsalCertificate | str:
    """Return the certificate of a verified rollback; else the reason for none.

    Durations are differences of clocks; negative ones become 0.
    """
    if policy is None:
        return "The request does not name the policy that it is rehearsed for."
    unproven = _why_unproven(trigger.name, rollback)
    if unproven:
        return unproven
    return RehearsalCertificate(
        trigger=trigger.name,
        fault=describe_fault(fault),
        injected_at=injected_at,
        alert_event_id=rollback.cause_id,
        detect_s=_seconds(rollback.timeline.detected_at - injected_at),
        **_times(rollback),
        candidate_digest=candidate,
        fallback_digest=fallback,
        policy_digest=policy,
        runtime=runtime,
        expires_at=expires_at,
    )


def _seconds(span: timedelta) -> float:
    return max(0.0, round(span.total_seconds(), 3))
