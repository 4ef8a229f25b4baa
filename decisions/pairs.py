"""Evidence from requests that two versions answered: only where they differ does it speak against one of them.

A pair is drawn before its outcome (`contracts.facts.MirroredPair`). Where both sides are bad, the request or the
machine is the cause, and it counts against neither. Of the pairs in which exactly one side is bad, it is the candidate
with probability 1/2 if the two versions are alike, whatever the requests are and their senders: McNemar's test, here
sequential, by the e-process of `decisions.evidence` on the pairs that differ. What a caller does after the draw changes
nothing of it. A caller can repeat a request that only the candidate answers badly: so of each team, or key of none, no
more pairs count than half of what the evidence needs, unless most pairs are its own.
"""

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache

from pydantic import Field

from contracts.facts import Inference, MirroredPair, PairCounts
from contracts.policy import Trigger
from contracts.vocabulary import Contract
from decisions.evidence import EQUAL_SHARE, Count, EProcess, observe_process, process_log_e
from decisions.triggers import kind_of, observe

LARGEST_ALPHA = 0.02
"""Pairs are judged at no higher level: there, pairs that one caller alternates confirm with less than its part."""
MOST_HOLDERS = 64
"""Holders that are counted one by one; above it the one with the least against the candidate is forgotten."""
OWN_PAIRS = 64
"""Of fewer pairs a burst of one caller is most."""
CLEAR_SIGMAS = 3.0
"""Standard deviations by which a holder's share of the pairs is above a half before it counts as most of them."""


class HolderPairs(Contract):
    """Pairs of one team, or of a key of none: all, and those that count against the candidate less those for it."""

    pairs: Count = 0
    net: Count = 0


class MirrorTest(Contract):
    """What pairs showed for one trigger.

    Attributes:
        discordant: Evidence from the pairs in which exactly one side was bad: a one is the candidate.
        both, neither: Pairs that count against neither version.
        capped: Pairs bad on the candidate only that are left out, because their holder has its part in the evidence.
        holders: Whose pairs they are.
    """

    discordant: EProcess = EProcess()
    both: Count = 0
    neither: Count = 0
    capped: Count = 0
    holders: dict[str, HolderPairs] = Field(default_factory=dict)

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


def observe_mirrored(test: MirrorTest, *, target: bool, other: bool, holder: str, alpha: float) -> MirrorTest:
    """Return the test with one pair.

    Args:
        test: The test so far.
        target: Whether the request was bad on the candidate.
        other: Whether it was bad on the other version.
        holder: The team of the caller's key, or that key.
        alpha: Of the trigger: it decides how many pairs of one holder count.
    """
    before = test.holders.get(holder, HolderPairs())
    after = before.model_copy(update={"pairs": before.pairs + 1})
    if target == other:
        counted = {"both": test.both + target, "neither": test.neither + (not target)}
        return test.model_copy(update={**counted, "holders": _with(test.holders, holder, after)})
    if target and before.net >= _most_of_one(alpha) and not _has_most(after, test.pairs + 1):
        return test.model_copy(update={"capped": test.capped + 1, "holders": _with(test.holders, holder, after)})
    after = after.model_copy(update={"net": max(0, before.net + (1 if target else -1))})
    discordant = observe_process(test.discordant, EQUAL_SHARE, [target])
    return test.model_copy(update={"discordant": discordant, "holders": _with(test.holders, holder, after)})


def needed_log_e(alpha: float) -> float:
    """Return the log e-value at which pairs show that the candidate is the worse version."""
    return -math.log(min(alpha, LARGEST_ALPHA))


@lru_cache(maxsize=256)
def _most_of_one(alpha: float) -> int:
    """Return how many net pairs of one holder count: half of those that, bad on the candidate only, are enough."""
    pairs = next(
        count for count in itertools.count(1) if process_log_e(EQUAL_SHARE, count, count) >= needed_log_e(alpha)
    )
    return math.ceil(pairs / 2)


def _has_most(own: HolderPairs, pairs: int) -> bool:
    return pairs >= OWN_PAIRS and 2 * own.pairs - pairs >= CLEAR_SIGMAS * math.sqrt(pairs)


def _with(holders: dict[str, HolderPairs], holder: str, pairs: HolderPairs) -> dict[str, HolderPairs]:
    if holder not in holders and len(holders) >= MOST_HOLDERS:
        least = min(holders, key=lambda name: (holders[name].net, holders[name].pairs))
        holders = {name: known for name, known in holders.items() if name != least}
    return {**holders, holder: pairs}


def outcomes_of_pair(
    trigger: Trigger, pair: MirroredPair, declared: Sequence[Trigger] = ()
) -> tuple[bool, bool] | None:
    """Return whether a request is bad on the served and on the mirrored side; None if one side shows nothing."""
    served, mirrored = (observe(trigger, without_queue(side), declared) for side in (pair.served, pair.mirrored))
    return None if served is None or mirrored is None else (served, mirrored)


def has_fired(trigger: Trigger, test: MirrorTest | None) -> bool:
    """Return whether pairs alone are enough against a canary: never for latency."""
    if test is None or kind_of(trigger) == "latency":
        return False
    return test.discordant.peak >= needed_log_e(trigger.alpha) and test.pairs >= trigger.min_requests


def without_queue(record: Inference) -> Inference:
    """Return a record without the time in the engine's queue, which others' requests cause."""
    queue_ms = record.queue_ms or 0.0
    ttft_ms = None if record.ttft_ms is None else max(0.0, record.ttft_ms - queue_ms)
    return record.model_copy(
        update={"ttft_ms": ttft_ms, "e2e_ms": max(0.0, record.e2e_ms - queue_ms), "queue_ms": None}
    )
