"""Pairs of latencies for tests of the canary's evidence."""

from contracts.facts import MirroredPair
from contracts.facts.watch import Features
from services.monitor.domain import monitoring
from testbed import factories as k
from tests.unit.monitor.factories import RULES, cause, policy, record, routed, watch

EMPTY = k.trigger(name="empty", metric="empty_ratio", threshold=0.02)


TRIGGERS = (k.trigger(), k.trigger(name="errors", metric="error_ratio", threshold=0.02), EMPTY)


def state(**route):
    return routed(of=watch(the_policy=policy(triggers=TRIGGERS), versions=(6, 7, 8)), **route)


def answer(version, at, *, empty=False, fails=False, **changes):
    features = Features(prompt_chars=200, output_chars=0 if empty else 120, empty=empty)
    about = {"error": "engine_failed", "caused_by": "target", "ttft_ms": None, "features": None} if fails else {}
    return record(at, version=version, **{"features": features, "caller": "shop"} | about | changes)


def pairs(count, served, mirrored, *, at=0.0, callers=("shop", "desk", "bot")):
    """Return pairs of the same kind, one in two seconds; their callers take turns."""
    return [
        MirroredPair(
            served=answer(
                at=at + 2.0 * index,
                request_id=f"q-{index}",
                **{"caller": callers[index % len(callers)], "holder": callers[index % len(callers)]} | served,
            ),
            mirrored=answer(at=at + 2.0 * index, request_id=f"q-{index}", **mirrored),
        )
        for index in range(count)
    ]


def give(before, given, seconds=10.0):
    return monitoring.add_records(before, [], cause(seconds), RULES, pairs=given)
