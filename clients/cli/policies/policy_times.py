"""Consequences of a policy: duration of steps, rows to show a loss, delay of alerts. Pure."""

import math
from collections.abc import Iterable, Iterator, Sequence

from contracts.policy import ReleasePolicy, Trigger
from decisions.evaluations.limit_tests import usual_rows
from decisions.evidence import hard_failures
from decisions.evidence.block_tests import BLOCK_S, LEAST_REQUESTS, count_bad_blocks, plan_line
from decisions.evidence.triggers import can_judge, kind_of, limit_of, sequential, triggers_of_shadow
from decisions.evidence.version_tests import CandidateTest, count_blocks_to_pass
from decisions.releases.plan import needs_shadow, traffic_shares
from decisions.rollback.suspensions import JUDGED_RATIO, least_confirmed

_SOON_S = 600.0
_UNITS = ((86_400.0, "days"), (3_600.0, "h"), (60.0, "min"), (1.0, "s"))


def explain_times(policy: ReleasePolicy, rps: float, *, first: bool = False) -> list[str]:
    """Return a sentence about each step of a policy that waits for requests, and about the triggers.

    Args:
        policy: The policy.
        rps: The model's requests per second.
        first: Whether the model has no version in traffic.
    """
    return [
        *_evaluations(policy),
        *_steps(policy, rps, first=first),
        *_triggers(policy, rps),
        *_judgements(policy.automatic, rps),
    ]


def blocks_to_pass(triggers: Sequence[Trigger], beta: float) -> int:
    """Return the number of blocks with only good requests after which a candidate passes all triggers."""
    return max((count_blocks_to_pass(CandidateTest(), limit_of(trigger), beta) for trigger in triggers), default=0)


def requests_to_pass(policy: ReleasePolicy, triggers: Sequence[Trigger], own_rps: float) -> float:
    """Return the number of good requests with which a candidate passes, at `own_rps` requests per second."""
    in_block = own_rps * BLOCK_S
    each = in_block / -math.expm1(-in_block)  # of the blocks that have any
    return blocks_to_pass(triggers, policy.canary.beta) * each


def _steps(policy: ReleasePolicy, rps: float, *, first: bool) -> Iterator[str]:
    load = policy.load
    yield f"Benchmark: {load.requests} requests to each side, {about(load.requests / load.rate_rps)} for each variant."
    has_shadow = needs_shadow(policy, first=first)
    unproved = (triggers_of_shadow if has_shadow else sequential)(policy.triggers)
    blocks = 0 if first else blocks_to_pass(unproved, policy.canary.beta)
    if blocks and (has_shadow or policy.canary.steps):
        yield (
            f"To pass, a candidate needs a good request in {blocks} blocks of {BLOCK_S} s and no bad one: "
            f"{about(blocks * BLOCK_S)} or more, however many requests come. With six times as many, 99 of 100 pass "
            "that have half of the bad requests allowed; one undecided at its deadline asks a person or goes on."
        )
    if policy.shadow is not None and has_shadow:
        shadow = policy.shadow
        own = max(shadow.min_requests, requests_to_pass(policy, unproved, shadow.share_ratio * rps))
        requests = own / shadow.share_ratio
        least = about(max(shadow.duration_s, requests / rps))
        yield f"Shadow: {own:,.0f} of {requests:,.0f} requests, at least {least}."
        yield from _late("shadow", requests, shadow.deadline_s, rps)
        unproved = tuple(trigger for trigger in unproved if kind_of(trigger) == "latency")
    for share in traffic_shares(policy, first=first):
        if policy.canary.only_for and share == policy.canary.steps[0] and share < 1.0:
            names, own = ", ".join(policy.canary.only_for), policy.canary.min_requests
            yield f"Canary of {share:.0%} of {names}: {own:,.0f} of {own / share:,.0f} of their requests or more."
            unproved = sequential(policy.triggers)
        elif share < 1.0:
            own = max(policy.canary.min_requests, requests_to_pass(policy, unproved, share * rps))
            requests, unproved = own / share, ()
            yield f"Canary of {share:.0%}: {own:,.0f} of {requests:,.0f} requests, at least {about(requests / rps)}."
            yield from _late("canary", requests, policy.canary.deadline_s, rps)


def _evaluations(policy: ReleasePolicy) -> Iterator[str]:
    """Yield the usual number of rows that show an equally good candidate to be within a limit."""
    for evaluation in policy.evaluations.sets:
        for bound in evaluation.bounds:
            drops = [drop for drop in (bound.max_drop, bound.max_drop_from_anchor) if drop is not None]
            if drops and bound.undecided != "continue":
                needed = usual_rows(min(drops), policy.evaluations.beta)
                of = f"Evaluation {evaluation.name}, {evaluation.label_of(bound)}, {bound.slice or 'all rows'}"
                yield f"{of}: about {needed:,} rows usually suffice; max_rows is {evaluation.max_rows:,}."


def _late(step: str, requests: float, deadline_s: float, rps: float) -> Iterator[str]:
    """Yield a warning for each step that needs more requests than arrive before its deadline."""
    if requests > rps * deadline_s:
        yield (
            f"  That is after its deadline of {period(deadline_s)}, so that it ends without a verdict: raise "
            f"{step}.deadline_s, the share or canary.beta, or lower min_requests; or send {requests / deadline_s:.3g} "
            "requests/s."
        )


def _judgements(triggers: Iterable[Trigger], rps: float) -> Iterator[str]:
    """Yield a sentence for each limit: the regression that a shadow confirms soon."""
    limits: dict[float, list[str]] = {}
    for trigger in filter(can_judge, triggers):
        limits.setdefault(limit_of(trigger), []).append(trigger.name)
    for limit, names in limits.items():
        least = least_confirmed(limit, JUDGED_RATIO * rps * _SOON_S)
        what = f"a share of bad requests of {least:.3g} or more" if least is not None else "no regression"
        yield (
            f"{', '.join(names)}: {about(_SOON_S)} of a suspended version's shadow can confirm {what}, if the version "
            f"that serves has {limit / 2.0:.3g} and capacity is spare."
        )


def _triggers(policy: ReleasePolicy, rps: float) -> Iterator[str]:
    """Yield a sentence for each group of triggers with the same delay, and one about false alarms."""
    watching = sequential(policy.triggers)
    if not watching:
        return
    line = plan_line(policy.false_alarm_every, len(watching))
    block_s = max(BLOCK_S, LEAST_REQUESTS / rps)
    nothing_s = max(hard_failures.LEAST_BLOCKS * BLOCK_S, hard_failures.LEAST_REQUESTS / rps)
    groups: dict[float, list[str]] = {}
    for trigger in watching:
        seconds = count_bad_blocks(limit_of(trigger), line) * block_s
        least = min(seconds, nothing_s) if trigger.metric in ("error_ratio", "empty_ratio") else seconds
        groups.setdefault(least, []).append(trigger.name)
    for seconds, names in groups.items():
        yield f"{', '.join(names)}: when every request is bad, an alert comes after {about(seconds)}."
    yield (
        f"Of an active version at its limits, one false alarm in {about(3600 * policy.false_alarm_every)} with traffic "
        f"or more; each trigger needs evidence of {line:,.0f}."
    )


def about(seconds: float) -> str:
    """Return a time in its largest fitting unit: `8 s`, `27 min`, `2.2 h`, `1,157 days`."""
    size, unit = next((each for each in _UNITS if seconds >= 1.5 * each[0]), _UNITS[-1])
    amount = seconds / size
    return f"{amount:,.2g} {unit}" if amount < 10 else f"{amount:,.0f} {unit}"


def period(seconds: float) -> str:
    """Return a time in its largest whole unit: `90 s`, `15 min`, `4 h`, `7 days`."""
    for size, unit in _UNITS:
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"
