"""`slipway rollback`: order the way back, or look at what it would do."""

import asyncio
import contextlib
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer
from nats.aio.client import Client
from nats.js import JetStreamContext

from clients.cli.commands.orders import EPOCH_TRIES, EXPIRES, ExpiresOption, actor, expires_at, order
from clients.cli.connection import JsonOption, Place, StateOption, connected, find_place
from clients.cli.event_log import Part, follow, last_said, newest
from clients.cli.output import Exit, Refused, show_json, show_line, show_pairs
from clients.cli.parsing import check_model, parse_number, target_of
from clients.cli.serving import active_target, read_route, serving
from clients.cli.views.alert import RollbackFact, rollback_line
from clients.cli.views.timeline import timeline_lines, timeline_rows
from contracts import routes
from contracts.codes import ADVICE, Code
from contracts.envelope import Event
from contracts.facts import DeploymentChanged, RollbackCompleted, RollbackFailed, RollbackOrdered, RollbackStarted
from contracts.orders import epoch_named
from contracts.routes import Route
from contracts.vocabulary import Target
from shared.errors import as_code
from shared.messaging.bus import publish_event
from shared.runtime.clock import SystemClock

WAIT_S = 60.0
LATELY = timedelta(seconds=120)
LATELY_TRIES, LATELY_TRY_S = 20, 0.1


def rollback(
    *,
    model: str,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept in the record.")],
    to: Annotated[
        str | None, typer.Option("--to", help="Go back to this version, further behind; else to the previous target.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="What is taken back: MODEL.vN.variant, such as a canary; else the active target.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would do and change nothing; exit code 1 if refused.")
    ] = False,
    expires: ExpiresOption = EXPIRES,
    wait: Annotated[bool, typer.Option(help="Wait for the end, and print when each step happened.")] = True,
    timeout: Annotated[float, typer.Option(help="Wait for so many seconds at most.", min=0.1)] = WAIT_S,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a target out of production, back to the previous one, and bar it.

    The exit code is 0 once traffic was moved and the target that it went to was not seen to fail. The order
    names its target: if that was taken back already, nothing happens. Within two minutes of another rollback it must
    be named with --target.
    """
    check_model(model)
    failed = target_of(model, target) if target is not None else None
    to_version = parse_number(to) if to is not None else None
    place = find_place(state)
    if dry_run:
        show_plan(asyncio.run(_dry_run(place, model, failed, to_version)), as_json=as_json)
        return
    wait_s = timeout if wait else None
    until = expires_at(expires)
    said = asyncio.run(
        _rollback(place, model, failed, to_version, reason=reason, until=until, wait_s=wait_s, say=not as_json)
    )
    if isinstance(said, Event):
        _show_ordered(said, as_json=as_json)
    else:
        show_end(said, as_json=as_json)


async def _dry_run(place: Place, model: str, failed: Target | None, to_version: int | None) -> dict[str, Any]:
    async with connected(place) as client:
        js = client.jetstream(timeout=10)
        failed = failed or await name_active(js, model)
        route = await read_route(js, model)
    return plan_rollback(route or Route(model=model), failed, to_version)


async def name_active(js: JetStreamContext, model: str) -> Target:
    """Name the active target, which an order without a target means.

    Raises:
        Refused: nothing serves, or traffic was taken back a moment ago: whoever reacts to the same alert as the
            rollback-controller must not take back what it went to.
    """
    route = await read_route(js, model)
    active = active_target(route, model)
    for _ in range(LATELY_TRIES):  # the fact follows the change of the route by a moment
        said = await last_said(js, DeploymentChanged, model)
        if said is None or route is None or said.data.route.epoch >= route.epoch:
            break
        await asyncio.sleep(LATELY_TRY_S)
    moved = said.data if said is not None else None
    if moved is not None and was_taken_back_lately(moved, SystemClock().now()):
        raise Refused(
            f"traffic of {model} was taken back to {active} at {moved.at:%H:%M:%S} UTC; "
            f"if {active} is to go as well, name it: --target {active}"
        )
    return active


def was_taken_back_lately(moved: DeploymentChanged, now: datetime) -> bool:
    """Return whether the last change of a route took traffic back a moment ago."""
    return moved.cause == "rollback" and now - moved.at < LATELY


def plan_rollback(route: Route, failed: Target, to_version: int | None) -> dict[str, Any]:
    """Return what an order would do to a route: the same function decides that carries it out."""
    edit = routes.roll_back(route, failed, cause_id="dry-run", to_version=to_version)
    found: dict[str, Any] = {"model": route.model, "failed": str(failed), "epoch": route.epoch}
    if isinstance(edit, routes.Refused):
        # what is neither active nor on trial; the route has moved on, or never was there
        code = "not_in_traffic" if edit.code == "stale_epoch" else edit.code
        return {**found, "refused": {"code": code, "reason": edit.reason}}
    after = edit.route
    aborts = route.canary is not None and route.canary.weight_ratio > 0.0
    aborts = aborts and (after.canary is None or after.canary.weight_ratio == 0.0)
    return {
        **found,
        "refused": None,
        "cause": edit.cause if isinstance(edit, routes.Changed) else "rollback",
        "active_now": _name(route.active),
        "active_then": _name(after.active),
        "epoch_then": after.epoch,
        "aborts_canary": _name(route.canary.served) if aborts and route.canary is not None else None,
        "previous_then": _name(after.previous),
        "quarantined_then": [str(one) for one in after.quarantined],
    }


def _name(served: routes.ServedTarget | None) -> str | None:
    return str(served.target) if served is not None else None


def show_plan(plan: dict[str, Any], *, as_json: bool) -> None:
    """Print what an order would do; one that would be refused ends the command with 1."""
    refused = plan["refused"]
    if as_json:
        show_json(plan)
    elif refused is not None:
        show_line(f"it would be refused: {refused['code']}: {refused['reason']}")
        show_line(ADVICE[as_code(refused["code"])])
    if refused is not None:
        raise typer.Exit(int(Exit.FAILED))
    if as_json:
        return
    show_pairs(
        {
            "taken back": plan["failed"],
            "active": f"{plan['active_now']} -> {plan['active_then']}",
            "canary": f"{plan['aborts_canary']} is aborted" if plan["aborts_canary"] else "-",
            "epoch": f"{plan['epoch']} -> {plan['epoch_then']}",
            "previous then": plan["previous_then"] or "-",
            "quarantined then": ", ".join(plan["quarantined_then"]),
        }
    )
    show_line("nothing was changed; before it switches, the rollback-controller asks the target for a real token")


async def _rollback(
    place: Place,
    model: str,
    failed: Target | None,
    to_version: int | None,
    *,
    reason: str,
    until: datetime,
    wait_s: float | None,
    say: bool,
) -> RollbackFact | Event[RollbackOrdered]:
    """Publish the order; return how it ended, or the order itself where that is not awaited.

    Where the route changed between reading it and hearing the order, and the target still serves, it is given anew. A
    target that the caller named is ordered without an epoch where the bucket of routes was lost or restored.
    """
    async with connected(place) as client:
        js = client.jetstream(timeout=10)
        # named, not left open: of two orders given at once, the second must not take back what the first went to
        named, failed = failed is not None, failed or await name_active(js, model)
        behind = False
        for _ in range(EPOCH_TRIES):
            route = await read_route(js, model)
            ordered = RollbackOrdered(
                actor=actor(),
                reason=reason,
                failed=failed,
                to_version=to_version,
                expires_at=until,
                epoch=None if behind else route.epoch if route is not None else 0,
            )
            event = order(model, None, ordered)
            after = await newest(js)
            await publish_event(js, event)
            if wait_s is None:
                return event
            ended = await _await_end(client, event, after, wait_s, say=say)
            if not isinstance(ended, RollbackFailed) or ended.code != "stale_epoch":
                break
            behind = named and is_behind(route, ended.reason)
            if not behind and failed not in serving(await read_route(js, model)):
                break
        return ended


def is_behind(route: Route | None, refusal: str) -> bool:
    """Return whether the bucket's route is older than the one that a refusal names: it was lost or restored."""
    known = epoch_named(refusal)
    return known is not None and (route.epoch if route is not None else 0) < known


def _show_ordered(event: Event[RollbackOrdered], *, as_json: bool) -> None:
    if as_json:
        show_json({"order_id": event.id, "model": event.subject, "failed": str(event.data.failed)})
    else:
        show_line(f"ordered to take {event.data.failed} back; see `slipway alerts {event.subject} --follow`")


async def _await_end(
    client: Client, event: Event[Any], after: dict[str, int], wait_s: float, *, say: bool
) -> RollbackFact:
    """Follow the rollback facts of one order until it has ended."""
    started = False
    try:
        async with asyncio.timeout(wait_s):
            news = follow(client, event.subject, after=after, part=Part(("rollback.*",)))
            async with contextlib.aclosing(news):
                async for one in news:
                    fact = one.event.data
                    if not isinstance(fact, RollbackFact) or fact.cause_id != event.id:
                        continue
                    if not isinstance(fact, RollbackStarted):
                        return fact
                    if say and not started:
                        show_line(rollback_line(fact))
                    started = True
    except TimeoutError:
        pass
    raise Refused(
        f"the order {event.id} was given, but it had not ended after {wait_s:g} s"
        + (": it is under way" if started else ": nobody took it up yet; see `slipway ps` for the rollback-controller")
        + f"; look at `slipway routes {event.subject}` and `slipway alerts {event.subject} --follow`"
    )


def show_end(fact: RollbackFact, *, as_json: bool) -> None:
    """Print how a rollback ended; anything but traffic that is well again ends the command with 1."""
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
        told = not as_json and isinstance(fact, RollbackFailed) and ADVICE[code] in fact.reason
        advice = "" if told else f". {ADVICE[code]}"
        raise Refused(f"{fact.failed} was not taken back: {code}{advice}")
    if fact.verdict == "fail":
        raise Refused(f"traffic is on {fact.to}, but it does not do well there: {fact.reason}")
