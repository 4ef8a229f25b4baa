"""Records, policies and routes for tests of the monitor."""

import itertools
import random
from datetime import timedelta

from contracts.facts import Inference
from contracts.facts.watch import Features
from contracts.policy import Canary
from services.monitor.domain import monitoring as watching
from services.monitor.domain.monitoring import Cause, Rules
from services.monitor.domain.record import MonitorState
from testbed import factories as f

_numbers = itertools.count()
RULES = Rules()


def record(seconds=0.0, *, version=7, ttft_ms=100.0, e2e_ms=400.0, **changes) -> Inference:
    whole = {
        "request_id": f"r-{next(_numbers)}",
        "target": f.target(version),
        "scheduled_at": f.after(seconds),
        "sent_at": f.after(seconds),
        "ttft_ms": ttft_ms,
        "e2e_ms": e2e_ms,
        "error": None,
        "drill": None,
        "canary": False,
        "features": Features(prompt_chars=200, output_chars=120, non_letter_ratio=0.2, repetition_ratio=0.02),
    }
    return f.inference(**(whole | changes))


def failed(seconds=0.0, **changes) -> Inference:
    return record(seconds, **({"error": "engine_dead", "ttft_ms": None, "features": None} | changes))


def triggers():
    return (f.trigger(), f.trigger(name="errors", metric="error_ratio", threshold=0.02))


def policy(**changes):
    return f.policy(**({"triggers": triggers(), "canary": Canary(steps=(0.2,), min_requests=100)} | changes))


def cause(seconds, name="") -> Cause:
    return Cause(name or f"e-{next(_numbers)}", f.after(seconds), "correlation")


def watch(*, environment="production", versions=(6, 7), the_policy=None) -> MonitorState:
    made = MonitorState(model=f.MODEL, environment=environment)
    for version in versions:
        made = watching.add_policy(made, version, f"r-{version}", the_policy or policy(), cause(0))
    return made


def routed(*, canary=None, weight=0.2, active=7, epoch=12, of=None, at=0.0, only_for=()) -> MonitorState:
    share = f.CanaryShare(served=f.served(canary), weight_ratio=weight, only_for=only_for) if canary else None
    route = f.route(active=f.served(active), canary=share, previous=None, history=(), quarantined=(), epoch=epoch)
    return watching.follow_route(of or watch(), route, cause(at), RULES)


def take(state, records, seconds, rules=RULES):
    return watching.add_records(state, records, cause(seconds), rules)


def feed(state, seconds, rate, make, *, start=0.0, batch_s=0.5, rules=RULES):
    """Feed requests evenly over some seconds, as a gateway batches them; `make(at)` gives each request."""
    at = start
    while at < start + seconds:
        count = max(1, round(rate * batch_s))
        records = [make(at + index * batch_s / count) for index in range(count)]
        state = take(state, records, at + batch_s + 0.5, rules)
        at += batch_s
    return state


def mixed(ratio, seed=1, **about):
    """Make requests of which a ratio is slow."""
    draw = random.Random(seed)
    return lambda at: record(at, ttft_ms=2000.0 if draw.random() < ratio else 100.0, e2e_ms=2500.0, **about)


def published(state: MonitorState, kind) -> list:
    return [kind.model_validate(entry.data) for entry in state.outbox if entry.type == kind.TYPE]


def later(seconds):
    return timedelta(seconds=seconds)
