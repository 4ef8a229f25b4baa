"""`slipway drill`: inject a fault into a share of a target's requests, labelled in telemetry, for a limited time."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any

import typer
from nats.js import JetStreamContext

from clients.cli.commands.orders import ANSWER_S, ReasonOption, give_order
from clients.cli.connection import StackAddress, ask_bus, find_stack, on_bus
from clients.cli.options import JsonOption, ModelArgument, StateOption
from clients.cli.output import CommandError, Exit, show_json, show_line
from clients.cli.parsing import FAULTS, check_model, parse_duration, parse_fault
from clients.cli.reading import RecordsOfModels
from clients.cli.releases.resolving import find_target, require_model
from clients.cli.releases.serving import active_target, read_route
from clients.cli.views.render import duration
from contracts.drills import LONGEST, Drill
from contracts.facts import DrillFault, DrillOrdered
from contracts.records import record_key
from contracts.vocabulary import ENVIRONMENTS, Environment, Target
from decisions.rollback.drills import describe_fault, is_in_progress
from shared.runtime.clock import SystemClock

BUCKET = "drills"


def drill(
    *,
    model: ModelArgument,
    fault: Annotated[list[str] | None, typer.Option("--fault", metavar="FAULT", help=f"{FAULTS}; repeatable.")] = None,
    share: Annotated[float, typer.Option(help="Share of the target's requests that get the fault, up to 1.")] = 0.5,
    lasting: Annotated[
        str, typer.Option("--for", help="Duration, such as 30s or 5m, at most 1h; then the drill ends by itself.")
    ] = "60s",
    environment: Annotated[
        Environment | None,
        typer.Option(help="Environment (default: production; both when listing drills or with --stop)."),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="MODEL.vN.variant, MODEL@candidate … (default: the active target).")
    ] = None,
    reason: ReasonOption = "drill from the command line",
    stop: Annotated[bool, typer.Option("--stop", help="End the drill now.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait until the drill is recorded.", min=0.1)] = ANSWER_S,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Inject a fault into a share of a target's answers for a while: a drill. Without --fault, show the running one.

    Affected requests carry the header `x-slipway-drill` and are labelled in telemetry and alerts. A new drill replaces
    the running one.
    """
    check_model(model)
    if stop and fault:
        raise CommandError("--stop and --fault exclude each other: give one of them", Exit.USAGE)
    stack = find_stack(state)
    if stop:
        ended = asyncio.run(_stop(stack, model, environment, reason, timeout))
        _show(ended, model, as_json, lambda drill: f"ended the drill on {drill.target} in {drill.environment}")
        return
    if not fault:
        drills = ask_bus(stack, lambda js: _read_drills(js, model, environment))
        _show(drills, model, as_json)
        return
    if not 0.0 < share <= 1.0:
        percent = f"; write {share / 100:g} for {share:g} %" if 1.0 < share <= 100.0 else "; end a drill with --stop"
        raise CommandError(f"--share {share:g} is not valid: it must be above 0 and at most 1{percent}", Exit.USAGE)
    parsed_fault = parse_fault(fault)
    span = parse_drill_duration(lasting)
    named = find_target(stack, model, target) if target is not None else None
    record = ask_bus(
        stack,
        lambda js: _start(
            js,
            stack,
            model,
            environment or "production",
            named,
            fault=parsed_fault,
            share=share,
            span=span,
            reason=reason,
            wait_s=timeout,
        ),
    )
    _show([record], model, as_json)


def parse_drill_duration(text: str) -> timedelta:
    """Return the duration of a drill.

    Raises:
        CommandError: it is not a valid duration, or longer than the limit for drills.
    """
    span = parse_duration(text)
    if span > LONGEST:
        raise CommandError(f"--for {text} is too long: the limit is {duration(LONGEST.total_seconds())}", Exit.USAGE)
    return span


async def _start(
    js: JetStreamContext,
    stack: StackAddress,
    model: str,
    environment: Environment,
    named: Target | None,
    *,
    fault: DrillFault,
    share: float,
    span: timedelta,
    reason: str,
    wait_s: float,
) -> Drill:
    route = await read_route(js, model, environment)
    if route is None:
        await require_model(js, model)
    target = named or active_target(route, model, environment)
    if route is None or not route.takes_traffic(target):
        raise CommandError(f"{target} takes no traffic in {environment}, so a drill would affect no request")
    ordered = DrillOrdered(
        reason=reason,
        target=target,
        fault=fault,
        share_ratio=share,
        expires_at=SystemClock().now() + span,
        environment=environment,
        epoch=route.epoch if route is not None else None,
    )
    return await _order(js, stack, model, ordered, wait_s)


async def _stop(
    stack: StackAddress, model: str, environment: Environment | None, reason: str, wait_s: float
) -> list[Drill]:
    async with on_bus(stack) as js:
        ended = []
        for running in await _read_drills(js, model, environment):
            over = DrillOrdered(
                reason=reason,
                target=running.target,
                fault=running.fault,
                share_ratio=0.0,
                expires_at=SystemClock().now(),
                environment=running.environment,
            )
            ended.append(await _order(js, stack, model, over, wait_s))
    return ended


async def _order(js: JetStreamContext, stack: StackAddress, model: str, ordered: DrillOrdered, wait_s: float) -> Drill:
    """Return the drill that an order made, as gateways see it.

    Raises:
        CommandError: as `give_order`; another order replaced it already.
    """
    answer = await give_order(js, stack, model, ordered, wait_s=wait_s)
    drill = await RecordsOfModels(js, BUCKET, Drill).get(record_key(ordered.environment, model))
    if drill is None or drill.drill_id != answer.order_id:
        raise CommandError(f"another order replaced the drill {answer.order_id}; see `slipway drill {model}`")
    return drill


async def _read_drills(js: JetStreamContext, model: str, environment: Environment | None) -> list[Drill]:
    """Return the drills of a model that are running now."""
    records, now = RecordsOfModels(js, BUCKET, Drill), SystemClock().now()
    environments = ENVIRONMENTS if environment is None else (environment,)
    drills = [await records.get(record_key(environment, model)) for environment in environments]
    return [drill for drill in drills if drill is not None and is_in_progress(drill, now)]


def _show(drills: list[Drill], model: str, as_json: bool, line_of: Callable[[Drill], str] | None = None) -> None:
    now = SystemClock().now()
    if as_json:
        show_json([as_data(drill) for drill in drills])
        return
    for drill in drills:
        show_line(line_of(drill) if line_of else drill_line(drill, (drill.expires_at - now).total_seconds()))
    if not drills:
        show_line(f"no drill of {model} is running")


def drill_line(drill: Drill, left_s: float) -> str:
    """Return one line about a drill: its fault, share, target, end, author and reason."""
    return (
        f"{describe_fault(drill.fault)} on {drill.share_ratio:.0%} of the requests "
        f"to {drill.target} in {drill.environment} "
        f"until {drill.expires_at:%H:%M:%S} UTC ({duration(max(left_s, 0.0))} left), by {drill.actor}: {drill.reason}"
    )


def as_data(drill: Drill) -> dict[str, Any]:
    """Return a drill as JSON data."""
    return {**drill.model_dump(mode="json"), "on": is_in_progress(drill, SystemClock().now())}
