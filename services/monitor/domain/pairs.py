"""Requests that two versions answered: what a pair shows of each.

A pair is drawn before its outcome (`contracts.facts.MirroredPair`). Each side counts in its own version's blocks.
"""

from collections.abc import Sequence

from contracts.facts import Inference, MirroredPair, PairCounts
from contracts.policy import Trigger
from decisions.evidence.triggers import observe


def count_pair(counts: PairCounts | None, *, target: bool, other: bool) -> PairCounts:
    """Return the counts with one pair more: whether the request was bad on the target, and on the other version."""
    counts = counts or PairCounts()
    if target == other:
        return counts.model_copy(update={"both": counts.both + target, "neither": counts.neither + (not target)})
    update = {"only_target": counts.only_target + target, "only_other": counts.only_other + other}
    return counts.model_copy(update=update)


def outcomes_of_pair(
    trigger: Trigger, pair: MirroredPair, declared: Sequence[Trigger] = ()
) -> tuple[bool, bool] | None:
    """Return whether a request is bad on the served and on the mirrored side; None if one side shows nothing."""
    served, mirrored = (observe(trigger, without_queue(side), declared) for side in (pair.served, pair.mirrored))
    return None if served is None or mirrored is None else (served, mirrored)


def without_queue(record: Inference) -> Inference:
    """Return a record without the time in the engine's queue, which others' requests cause."""
    queue_ms = record.queue_ms or 0.0
    ttft_ms = None if record.ttft_ms is None else max(0.0, record.ttft_ms - queue_ms)
    return record.model_copy(
        update={"ttft_ms": ttft_ms, "e2e_ms": max(0.0, record.e2e_ms - queue_ms), "queue_ms": None}
    )
