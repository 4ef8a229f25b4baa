"""`slipway rollback`: order a rollback, or show its effect."""

import asyncio
import contextlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, cast, get_args

import nats.errors
import typer
from nats.js import JetStreamContext

from clients.cli.commands.orders import (
    ANSWER_TRY_S,
    EPOCH_TRIES,
    EXPIRES,
    ExpiresOption,
    ReasonOption,
    expires_at,
    order,
    refused_error,
)
from clients.cli.commands.suspension import Decision, DecisionOrder, decide_suspension
from clients.cli.connection import StackAddress, find_stack, on_bus, sender_of
from clients.cli.events.last_events import answer_to, last_event, last_sequences
from clients.cli.options import JsonOption, ModelArgument, StateOption
from clients.cli.output import CommandError, Exit, show_json, show_line, show_pairs, show_result
from clients.cli.parsing import check_model
from clients.cli.releases.resolving import find_target, require_model, version_of
from clients.cli.releases.serving import active_target, read_route
from clients.cli.views.alert import RollbackFact, rollback_line
from clients.cli.views.timeline import timeline_lines, timeline_rows
from contracts.codes import ADVICE, Code
from contracts.envelope import Event
from contracts.facts import (
    DeploymentChanged,
    OrderRefused,
    RollbackCompleted,
    RollbackFailed,
    RollbackOrdered,
    RollbackStarted,
)
from contracts.routes import Route
from contracts.services import EVENTS
from contracts.vocabulary import Target
from decisions.rollback.orders import epoch_in_reason
from decisions.routes.rollback_plan import plan_rollback
from shared.errors import Transient, as_code
from shared.messaging.publishing import publish_event
from shared.runtime.clock import SystemClock

WAIT_S = 60.0
RECENT = timedelta(seconds=120)
RECENT_TRIES, RECENT_TRY_S = 20, 0.1


def rollback(
    *,
    model: ModelArgument,
    decided: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]", help="After `confirm` or `return`: the model whose suspended version is decided about."
        ),
    ] = None,
    reason: ReasonOption,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="vN", help="Roll back to this earlier version (default: to the previous target)."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="Target to roll back: MODEL.vN.variant, MODEL@vN or MODEL@candidate (default: the active one)."
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show what the rollback would do; change nothing. Exit code 1 if refused."),
    ] = False,
    at_once: Annotated[
        bool,
        typer.Option("--at-once", help="After `return`: all traffic now, not as a canary through the policy's steps."),
    ] = False,
    expires: ExpiresOption = EXPIRES,
    wait: Annotated[bool, typer.Option(help="Wait for the end, and print the time of each step.")] = True,
    timeout: Annotated[float, typer.Option(help="Maximum time to wait, in seconds.", min=0.1)] = WAIT_S,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Roll back: take a target out of production, route traffic to the previous target, and quarantine it.

    `slipway rollback confirm MODEL` quarantines the version that an alert suspended last, or --target;
    `slipway rollback return MODEL` returns it as a canary, or --at-once.

    The exit code is 0 if traffic moved to a target that does not fail. The order names its target: a target that was
    rolled back before stays so. Within two minutes after another rollback, --target is required, except with
    --dry-run.
    """
    if decided is not None and model not in get_args(Decision):
        raise CommandError(f"{model!r} is no decision: write confirm or return before the model", Exit.USAGE)
    if decided is not None and (to is not None or dry_run or not wait):
        raise CommandError(f"{model} does not go with --to, --dry-run or --no-wait", Exit.USAGE)
    if at_once and model != "return":
        raise CommandError("--at-once goes with `return` only", Exit.USAGE)
    stack = find_stack(state)
    if decided is not None:
        left = find_target(stack, decided, target) if target is not None else None
        order = DecisionOrder(cast("Decision", model), reason, expires_at(expires), left, at_once)
        decide_suspension(stack, decided, order, wait_s=timeout, as_json=as_json)
        return
    check_model(model)
    named = find_target(stack, model, target) if target is not None else None
    to_version = version_of(stack, model, to) if to is not None else None
    if dry_run:
        show_plan(asyncio.run(_dry_run(stack, model, named, to_version)), as_json=as_json)
        return
    requested = RequestedRollback(model, named, to_version, reason, expires_at(expires))
    outcome = asyncio.run(_rollback(stack, requested, timeout if wait else None, verbose=not as_json))
    if isinstance(outcome, Event):
        _show_ordered(outcome, as_json=as_json)
    else:
        show_end(outcome, as_json=as_json)


async def _dry_run(stack: StackAddress, model: str, failed: Target | None, to_version: int | None) -> dict[str, Any]:
    async with on_bus(stack) as js:
        route = await read_route(js, model)
        failed = failed or await _active(js, route, model)
    return plan_rollback(route or Route(model=model), failed, to_version)


async def _active(js: JetStreamContext, route: Route | None, model: str) -> Target:
    """Return the active target of a route; raise CommandError if none serves."""
    if route is None:
        await require_model(js, model)
    return active_target(route, model)


async def name_active(js: JetStreamContext, model: str) -> Target:
    """Return the active target, the default of an order.

    Raises:
        CommandError: No target is active, or it became active by a recent rollback: an operator and the
            rollback-controller may react to the same alert.
    """
    route = await read_route(js, model)
    active = await _active(js, route, model)
    for _ in range(RECENT_TRIES):  # the event follows the change of the route with a short delay
        changed = await last_event(js, DeploymentChanged, model)
        if changed is None or route is None or changed.data.route.epoch >= route.epoch:
            break
        await asyncio.sleep(RECENT_TRY_S)
    moved = changed.data if changed is not None else None
    if moved is not None and was_rolled_back_recently(moved, route, SystemClock().now()):
        raise CommandError(
            f"{model} was rolled back to {active} at {moved.at:%H:%M:%S} UTC, less than "
            f"{RECENT.total_seconds():g} s ago; to roll back {active} as well, add --target {active}"
        )
    return active


def was_rolled_back_recently(moved: DeploymentChanged, route: Route | None, now: datetime) -> bool:
    """Return whether the last published change is a recent rollback to the active target.

    A rollback may be published late, after another target has become active.
    """
    if route is not None and moved.route.epoch < route.epoch and moved.route.active != route.active:
        return False
    return moved.cause == "rollback" and now - moved.at < RECENT


def show_plan(plan: dict[str, Any], *, as_json: bool) -> None:
    """Print the effect of an order; end the command with exit code 1 if it would be refused."""
    refused = plan["refused"]
    if as_json:
        show_json(plan)
    elif refused is not None:
        show_line(f"the rollback would be refused: {refused['code']}: {refused['reason']}")
        show_line(ADVICE[as_code(refused["code"])])
    if refused is not None:
        raise typer.Exit(int(Exit.FAILED))
    if as_json:
        return
    show_pairs(
        {
            "rolled back": plan["failed"],
            "active": f"{plan['active_before']} -> {plan['active_after']}",
            "canary": f"{plan['aborts_canary']} is aborted" if plan["aborts_canary"] else "-",
            **({"shadow": f"{plan['ends_shadow']} ends"} if plan["ends_shadow"] else {}),
            "epoch": f"{plan['epoch']} -> {plan['epoch_after']}",
            "previous after": plan["previous_after"] or "-",
            "quarantined after": ", ".join(plan["quarantined_after"]),
        }
    )
    show_line("nothing was changed; before the switch, the rollback-controller tests the target with a real request")


@dataclass(frozen=True)
class RequestedRollback:
    """A requested rollback.

    Attributes:
        model: The model.
        failed: The target to roll back; None for the active target.
        to_version: The version to route traffic to; None for the previous target.
        reason: The reason.
        until: Expiry of the order.
    """

    model: str
    failed: Target | None
    to_version: int | None
    reason: str
    until: datetime

    def ordered(self, failed: Target, epoch: int | None) -> RollbackOrdered:
        """Return the order for a target and an epoch of the route."""
        return RollbackOrdered(
            reason=self.reason, failed=failed, to_version=self.to_version, expires_at=self.until, epoch=epoch
        )


async def _rollback(
    stack: StackAddress, requested: RequestedRollback, wait_s: float | None, *, verbose: bool
) -> RollbackFact | Event[RollbackOrdered]:
    """Publish the order; return its outcome, or the order if `wait_s` is None.

    The order is repeated if the route changes after the read and the target still takes traffic. If the bucket of
    routes was lost or restored, an order with a named target is published without an epoch.
    """
    model = requested.model
    async with on_bus(stack) as js:
        # the order names its target: of two simultaneous orders, the second must not roll back the first one's choice
        failed = requested.failed or await name_active(js, model)
        behind = False
        for _ in range(EPOCH_TRIES):
            route = await read_route(js, model)
            epoch = None if behind else route.epoch if route is not None else 0
            event = order(sender_of(stack), model, None, requested.ordered(failed, epoch))
            after = (await last_sequences(js))[EVENTS]
            await publish_event(js, event, random_id=True)
            if wait_s is None:
                return event
            ended = await _await_end(js, event, after, wait_s, verbose=verbose)
            if not isinstance(ended, RollbackFailed) or ended.code != "stale_epoch":
                break
            behind = requested.failed is not None and is_behind(route, ended.reason)
            route = await read_route(js, model)
            if not behind and (route is None or not route.takes_traffic(failed)):
                break
        return ended


def is_behind(route: Route | None, refusal: str) -> bool:
    """Return whether a route is older than the epoch in a refusal, because its bucket was lost or restored."""
    known = epoch_in_reason(refusal)
    return known is not None and (route.epoch if route is not None else 0) < known


def _show_ordered(event: Event[RollbackOrdered], *, as_json: bool) -> None:
    data = {"order_id": event.id, "model": event.subject, "failed": str(event.data.failed)}
    line = f"ordered the rollback of {event.data.failed}; see `slipway events --follow {event.subject}`"
    show_result(data, line, as_json=as_json)


async def _await_end(
    js: JetStreamContext, event: Event[Any], after: int, wait_s: float, *, verbose: bool
) -> RollbackFact:
    """Return the last fact of an ordered rollback; raise CommandError if it is refused, or does not end in time."""
    started = False
    deadline = asyncio.get_running_loop().time() + wait_s
    while asyncio.get_running_loop().time() < deadline:
        with contextlib.suppress(TimeoutError, nats.errors.Error, Transient):  # the bus may be away for a moment
            for kind in (OrderRefused, RollbackCompleted, RollbackFailed, RollbackStarted):
                answer = await answer_to(js, kind, event.subject, event.id, after)
                fact = answer_in(answer.data, event.id) if answer is not None else None
                if isinstance(fact, RollbackStarted):
                    if verbose and not started:
                        show_line(rollback_line(fact))
                    started = True
                elif fact is not None:
                    return fact
        await asyncio.sleep(ANSWER_TRY_S)
    raise CommandError(
        f"the order {event.id} was published, but the rollback had not ended after {wait_s:g} s: "
        + (
            "it is in progress"
            if started
            else "no service has started it; see `slipway ps` for the rollback-controller"
        )
        + f"; see also `slipway routes {event.subject}` and `slipway events --follow {event.subject}`"
    )


def answer_in(fact: Any, order_id: str) -> RollbackFact | None:
    """Return a fact of the rollback of an order; None for other facts.

    Raises:
        CommandError: The fact is the refusal of the order.
    """
    if isinstance(fact, OrderRefused) and fact.order_id == order_id:
        raise refused_error(fact)
    return fact if isinstance(fact, RollbackFact) and fact.cause_id == order_id else None


def show_end(fact: RollbackFact, *, as_json: bool) -> None:
    """Print the outcome of a rollback; end the command with exit code 1 unless traffic moved to a healthy target."""
    completed = isinstance(fact, RollbackCompleted)
    if as_json:
        steps = [
            {"step": name, "at": at.isoformat(), "seconds": since} for name, at, since in timeline_rows(fact.timeline)
        ]
        show_json({**fact.model_dump(mode="json"), "state": "completed" if completed else "failed", "steps": steps})
    else:
        show_line(rollback_line(fact))
        for line in timeline_lines(fact.timeline):
            show_line(f"  {line}")
    if not isinstance(fact, RollbackCompleted):
        code: Code = fact.code if isinstance(fact, RollbackFailed) else "internal_error"
        has_advice = not as_json and isinstance(fact, RollbackFailed) and ADVICE[code] in fact.reason
        advice = "" if has_advice else f". {ADVICE[code]}"
        raise CommandError(f"{fact.failed} was not rolled back: {code}{advice}")
    if fact.verdict == "fail":
        raise CommandError(f"traffic is on {fact.to}, but that target fails as well: {fact.reason}")
