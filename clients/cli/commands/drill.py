"""`slipway drill`: put a fault on a share of a target's requests, labelled everywhere, ending by itself."""

import asyncio
from datetime import timedelta
from typing import Annotated, Any

import typer
from nats.js import JetStreamContext

from clients.cli.commands.orders import actor, order, refusal
from clients.cli.connection import JsonOption, Place, StateOption, connected, find_place
from clients.cli.output import Exit, Refused, show_json, show_line
from clients.cli.parsing import FAULTS, check_model, describe_fault, parse_fault, parse_span, target_of
from clients.cli.serving import active_target, read_route, serving
from clients.cli.views.render import duration
from contracts.drills import LONGEST, Drill, drill_key
from contracts.envelope import Event
from contracts.facts import DrillFault, DrillOrdered
from contracts.vocabulary import Environment, Target
from shared.messaging.bus import publish_event
from shared.runtime.clock import SystemClock
from shared.storage.kv import Bucket

BUCKET = "drills"
WAIT_S = 15.0
POLL_S = 0.05
ENVIRONMENTS: tuple[Environment, Environment] = ("production", "staging")


def drill(
    *,
    model: str,
    fault: Annotated[list[str] | None, typer.Option("--fault", help=f"{FAULTS}; repeatable.")] = None,
    share: Annotated[float, typer.Option(help="Share of the target's requests that it touches.", max=1.0)] = 0.5,
    lasting: Annotated[str, typer.Option("--for", help="30s, 5m, at most 1h; then it ends by itself.")] = "60s",
    environment: Annotated[
        Environment | None, typer.Option(help="production without it; both when looking or stopping.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="MODEL.vN.variant; else the active target.")] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept in the record.")] = "drill from the command line",
    stop: Annotated[bool, typer.Option("--stop", help="End the drill now.")] = False,
    timeout: Annotated[float, typer.Option(help="Wait so many seconds for the record.", min=0.1)] = WAIT_S,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Order a drill; without --fault show the one under way.

    Touched requests carry the header `x-slipway-drill` and are labelled in telemetry and alerts. A new drill takes the
    place of the one before.
    """
    check_model(model)
    if stop and fault:
        raise Refused("say either --stop or --fault", Exit.USAGE)
    place = find_place(state)
    if stop:
        _show_ended(asyncio.run(_stop(place, model, environment, reason, timeout)), model, as_json)
        return
    if not fault:
        found = asyncio.run(_under_way(place, model, environment))
        _show(found, model, as_json)
        return
    if share <= 0.0:
        raise Refused("--share must be above 0; end a drill with --stop", Exit.USAGE)
    wanted = parse_fault(fault)
    span = parse_lasting(lasting)
    named = target_of(model, target) if target is not None else None
    record = asyncio.run(
        _start(
            place,
            model,
            environment or "production",
            named,
            fault=wanted,
            share=share,
            span=span,
            reason=reason,
            wait_s=timeout,
        )
    )
    _show([record], model, as_json)


def parse_lasting(text: str) -> timedelta:
    """Read how long a drill lasts.

    Raises:
        Refused: it is no span of time, or longer than any drill may last.
    """
    span = parse_span(text)
    if span > LONGEST:
        raise Refused(f"a drill lasts at most {duration(LONGEST.total_seconds())}; {text} is longer", Exit.USAGE)
    return span


async def _start(
    place: Place,
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
    async with connected(place) as client:
        js = client.jetstream(timeout=10)
        route = await read_route(js, model, environment)
        target = named or active_target(route, model, environment)
        if target not in serving(route):
            raise Refused(f"{target} takes no traffic in {environment}, so a drill would touch nothing")
        ordered = DrillOrdered(
            actor=actor(),
            reason=reason,
            target=target,
            fault=fault,
            share_ratio=share,
            expires_at=SystemClock().now() + span,
            environment=environment,
            epoch=route.epoch if route is not None else None,
        )
        return await _order(js, order(model, None, ordered), wait_s)


async def _stop(place: Place, model: str, environment: Environment | None, reason: str, wait_s: float) -> list[Drill]:
    async with connected(place) as client:
        js = client.jetstream(timeout=10)
        ended = []
        for one in await _on(js, model, environment):
            over = DrillOrdered(
                actor=actor(),
                reason=reason,
                target=one.target,
                fault=one.fault,
                share_ratio=0.0,
                expires_at=SystemClock().now(),
                environment=one.environment,
            )
            ended.append(await _order(js, order(model, None, over), wait_s, until=one))
    return ended


async def _order(js: JetStreamContext, event: Event[Any], wait_s: float, *, until: Drill | None = None) -> Drill:
    """Return an order and wait until gateways can see it."""
    ordered: DrillOrdered = event.data
    await publish_event(js, event)
    records = Bucket(js, BUCKET, Drill)
    key = drill_key(ordered.environment, event.subject)
    deadline = asyncio.get_running_loop().time() + wait_s
    while asyncio.get_running_loop().time() < deadline:
        entry = await records.get(key)
        if entry is not None and entry.value.drill_id == event.id:
            return entry.value
        answer = await refusal(js, event)
        if answer is not None:
            raise Refused(f"the order {event.id} was refused: {answer.code}: {answer.reason}")
        await asyncio.sleep(POLL_S)
    went_on = f"; the drill ends by itself at {until.expires_at:%H:%M:%S} UTC" if until is not None else ""
    raise Refused(
        f"the order {event.id} was given, but nobody took it up within {wait_s:g} s{went_on}; "
        "see `slipway ps` for the rollback-controller, and `slipway events`"
    )


async def _under_way(place: Place, model: str, environment: Environment | None) -> list[Drill]:
    async with connected(place) as client:
        return await _on(client.jetstream(timeout=10), model, environment)


async def _on(js: JetStreamContext, model: str, environment: Environment | None) -> list[Drill]:
    """Return the drills of a model that are on now."""
    records, now = Bucket(js, BUCKET, Drill), SystemClock().now()
    wanted = ENVIRONMENTS if environment is None else (environment,)
    found = [await records.get(drill_key(one, model)) for one in wanted]
    return [entry.value for entry in found if entry is not None and entry.value.is_on(now)]


def _show(found: list[Drill], model: str, as_json: bool) -> None:
    now = SystemClock().now()
    if as_json:
        show_json([as_data(one) for one in found])
        return
    for one in found:
        show_line(drill_line(one, (one.expires_at - now).total_seconds()))
    if not found:
        show_line(f"no drill of {model} is under way")


def _show_ended(ended: list[Drill], model: str, as_json: bool) -> None:
    if as_json:
        show_json([as_data(one) for one in ended])
        return
    for one in ended:
        show_line(f"ended the drill on {one.target} in {one.environment}")
    if not ended:
        show_line(f"no drill of {model} is under way")


def drill_line(one: Drill, left_s: float) -> str:
    """Say in one line what a drill does and until when."""
    return (
        f"{describe_fault(one.fault)} on {one.share_ratio:.0%} of the requests to {one.target} in {one.environment} "
        f"until {one.expires_at:%H:%M:%S} UTC ({duration(max(left_s, 0.0))} left), by {one.actor}: {one.reason}"
    )


def as_data(one: Drill) -> dict[str, Any]:
    """Return a drill as JSON data."""
    return {**one.model_dump(mode="json"), "on": one.is_on(SystemClock().now())}
