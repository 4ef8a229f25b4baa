"""Evidence from requests that two versions answered: only where they differ does it speak against one of them.

A pair is drawn before its outcome (`contracts.facts.MirroredPair`). Where both sides are bad, the request or the
machine is the cause, and it counts against neither. Of the pairs in which exactly one side is bad, it is the target
with probability 1/2 if the two versions are alike, whatever the requests are and their senders: McNemar's test, here
sequential, by the e-process (a canary) or e-detector (the active target) of `decisions.evidence` on the pairs that
differ. What a caller does after the draw changes nothing of it. A caller that knows a request which only one of the two
versions answers badly, as where both decode greedily, can repeat it: what counts of one caller is limited
(`decisions.pair_callers`).
"""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from contracts.facts import Inference, MirroredPair, PairCounts
from contracts.policy import Trigger
from contracts.vocabulary import Contract
from decisions.evidence import (
    EQUAL_SHARE,
    Count,
    EDetector,
    EProcess,
    observe_detector,
    observe_process,
    resting_log_e,
)
from decisions.pair_callers import PairCallers, at_rest, is_full, needed_log_e, note_discordant, note_pair
from decisions.triggers import detector_alpha, kind_of, observe

_NEAR = 0.1
"""An e-detector returns to its resting value from above and never quite reaches it."""


class MirrorTest(Contract):
    """What pairs showed for one trigger.

    Attributes:
        discordant: Evidence from the pairs in which exactly one side was bad: a one is the target.
        both, neither: Pairs that count against neither version.
        capped: Pairs bad on the target only that are left out, because their caller has its part in the evidence.
        callers: Whose pairs they are, by key.
        holders: The same by holder: all keys of a team are one.
    """

    discordant: Annotated[EProcess | EDetector, Field(discriminator="form")]
    both: Count = 0
    neither: Count = 0
    capped: Count = 0
    callers: PairCallers = PairCallers()
    holders: PairCallers = PairCallers()

    @property
    def counts(self) -> PairCounts:
        """Return the counts for publication, of all pairs."""
        return PairCounts(
            both=self.both,
            neither=self.neither,
            only_target=self.discordant.hits + self.capped,
            only_other=self.discordant.trials - self.discordant.hits,
        )

    @property
    def pairs(self) -> int:
        """Return the number of pairs."""
        return self.both + self.neither + self.capped + self.discordant.trials


def fresh_test(*, canary: bool) -> MirrorTest:
    """Return a test without pairs: an e-process for a canary, an e-detector for the active target."""
    return MirrorTest(discordant=EProcess() if canary else EDetector())


def observe_mirrored(
    test: MirrorTest, *, target: bool, other: bool, caller: str | None, alpha: float, holder: str | None = None
) -> MirrorTest:
    """Return the test with one pair.

    Args:
        test: The test so far.
        target: Whether the request was bad on the target.
        other: Whether it was bad on the other version.
        caller: Who sent it; None in records of a gateway that names no callers, of which nothing is left out.
        alpha: Of the trigger: it decides how many pairs of one caller count.
        holder: The team of the caller's key, or that key; None in records of a gateway that names none.
    """
    holder = holder or caller
    callers, holders = note_pair(test.callers, caller), note_pair(test.holders, holder)
    test = test.model_copy(update={"callers": callers, "holders": holders})
    if target and other:
        return test.model_copy(update={"both": test.both + 1})
    if not target and not other:
        return test.model_copy(update={"neither": test.neither + 1})
    if caller is not None and holder is not None:
        canary = isinstance(test.discordant, EProcess)
        is_left_out = target and (
            is_full(callers, caller, alpha, canary=canary) or is_full(holders, holder, alpha, canary=canary)
        )
        callers = note_discordant(callers, caller, target=target, counts=not is_left_out)
        holders = note_discordant(holders, holder, target=target, counts=not is_left_out)
        if is_left_out:
            return test.model_copy(update={"capped": test.capped + 1, "callers": callers, "holders": holders})
    seen = test.discordant
    after = (
        observe_detector(seen, EQUAL_SHARE, [target])
        if isinstance(seen, EDetector)
        else observe_process(seen, EQUAL_SHARE, [target])
    )
    if _rests(after):
        callers, holders = at_rest(callers), at_rest(holders)
    return test.model_copy(update={"discordant": after, "callers": callers, "holders": holders})


def _rests(evidence: EProcess | EDetector) -> bool:
    at_rest = resting_log_e(EQUAL_SHARE) + _NEAR if isinstance(evidence, EDetector) else 0.0
    return evidence.log_e <= at_rest


def outcomes_of_pair(
    trigger: Trigger, pair: MirroredPair, declared: Sequence[Trigger] = ()
) -> tuple[bool, bool] | None:
    """Return whether a request is bad on the served and on the mirrored side; None if one side shows nothing."""
    served, mirrored = (observe(trigger, without_queue(side), declared) for side in (pair.served, pair.mirrored))
    return None if served is None or mirrored is None else (served, mirrored)


def has_fired(trigger: Trigger, test: MirrorTest | None) -> bool:
    """Return whether pairs alone are enough for an alert: never for latency."""
    if test is None or kind_of(trigger) == "latency":
        return False
    return test.discordant.peak >= needed_log_e(_alpha(trigger, test)) and test.pairs >= trigger.min_requests


def is_confirmed(trigger: Trigger, test: MirrorTest | None) -> bool:
    """Return whether pairs show now that the target is worse than the other version, for an alert that is open."""
    return test is not None and test.discordant.log_e >= needed_log_e(trigger.alpha)


def without_queue(record: Inference) -> Inference:
    """Return a record without the time in the engine's queue, which others' requests cause."""
    queue_ms = record.queue_ms or 0.0
    ttft_ms = None if record.ttft_ms is None else max(0.0, record.ttft_ms - queue_ms)
    return record.model_copy(
        update={"ttft_ms": ttft_ms, "e2e_ms": max(0.0, record.e2e_ms - queue_ms), "queue_ms": None}
    )


def _alpha(trigger: Trigger, test: MirrorTest) -> float:
    """Return the level at which pairs raise an alert: as of the trigger's own evidence, in pairs that differ."""
    return detector_alpha(trigger) if isinstance(test.discordant, EDetector) else trigger.alpha
