"""Records, alerts and routes for tests of decisions of the rollback-controller."""

import itertools

from contracts import facts as cf
from contracts.routes import CanaryShare
from services.rollback_controller.domain import decision, execution
from services.rollback_controller.domain.decision import Cause
from services.rollback_controller.domain.record import RollbackState, Rules
from testbed import factories as f

RULES = Rules()


_ids = itertools.count()


def state(*, environment="production", **changes) -> RollbackState:
    triggers = {
        "7": (
            f.trigger(name="slow"),
            f.trigger(name="refusals", metric="refusal_ratio", threshold=0.2, action="manual"),
        )
    }
    triggers["6"] = (f.trigger(name="slow"),)
    return RollbackState(**({"model": f.MODEL, "environment": environment, "triggers": triggers} | changes))


def route(active=7, previous=6, *, canary=None, weight=0.2, **changes):
    share = CanaryShare(served=f.served(canary), weight_ratio=weight) if canary else None
    behind = f.served(previous) if previous is not None else None
    return f.route(
        **(
            {"active": f.served(active), "previous": behind, "canary": share, "history": (), "quarantined": ()}
            | changes
        )
    )


def cause(seconds=0.0, fact_id="") -> Cause:
    return Cause(fact_id or f"fact-{next(_ids)}", "r-7", f.after(seconds), f.after(seconds), sender="ops")


def alert(version=7, trigger="slow", *, kind=cf.AlertRaised, number=1, **changes):
    about = {
        "alert_id": f"{f.target(version)}/{trigger}/{number}",
        "kind": "latency",
        "severity": "critical",
        "target": f.target(version),
        "trigger": trigger,
        "message": "slow",
        "first_bad_at": f.after(-3),
        "raised_at": f.after(0),
    }
    return kind(**(about | changes))


def published(state: RollbackState, kind) -> list:
    return [kind.model_validate(out.data) for out in state.outbox if out.type == kind.TYPE]


def take(before, what, *, at=0.0, on=None, fact_id=""):
    return decision.decide_on_alert(before, what, on or route(), cause(at, fact_id), RULES)


def switch(before: RollbackState, at=0.1) -> RollbackState:
    (todo,) = execution.pending(before)
    return execution.record_switch(before, todo.rollback_id, route(6, None), "rollback", f.after(at))
