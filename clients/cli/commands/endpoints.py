"""`slipway endpoints`: list the Tritons of the serving fleet, drain or restore a Triton."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import typer
from nats.js import JetStreamContext

from clients.cli.audit_facts import ALL_MODELS
from clients.cli.commands.orders import (
    EXPIRES,
    ExpiresOption,
    ReasonOption,
    expires_at,
    give_order,
)
from clients.cli.connection import StackAddress, ask_bus, find_stack
from clients.cli.options import JsonOption, StateOption
from clients.cli.output import CommandError, Exit, show_json, show_line, show_result, show_table
from clients.cli.parsing import parse_duration
from clients.cli.releases.runtimes import describe_silence, read_fleets, read_runtimes
from clients.cli.releases.version_records import read_routes
from contracts.facts import EndpointOrdered
from contracts.routes import Route
from contracts.runtimes import FleetRuntime, RunningTarget
from decisions.serving.runtimes import ListedFleet
from shared.runtime.clock import SystemClock

ANSWER_S, POLL_S = 30.0, 1.0
EndpointArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the endpoint: see `slipway endpoints`.")]
CHANGED = "not the runtime of its release"
endpoints_app = typer.Typer(help="List the Tritons of the serving fleet, drain one, or use it again.")


@endpoints_app.callback(invoke_without_command=True)
def list_endpoints(context: typer.Context, state: StateOption = None, as_json: JsonOption = False) -> None:
    """List the endpoints: runtime with its digest, state, memory, and targets with their roles in production."""
    if context.invoked_subcommand is not None:
        return
    stack = find_stack(state)
    fleets, routes = ask_bus(stack, read_fleets), ask_bus(stack, read_routes)
    listed = [(fleet, endpoint) for fleet in fleets for endpoint in fleet.endpoints]
    if as_json:
        show_json([describe_json(*each) for each in listed])
        return
    if not listed:
        raise CommandError("no server-manager has listed its endpoints yet; see `slipway ps`")
    show_table(
        ("endpoint", "address", "runtime", "engine", "digest", "state", "reserved", "free", "targets"),
        [describe_row(*each, routes) for each in listed],
    )
    for _, endpoint in listed:
        if endpoint.waits_for:
            show_line(f"{name_of(endpoint)} is not empty yet: {endpoint.waits_for}")
    for line in describe_missing_copies(routes):
        show_line(line)
    show_silent(fleets)


def describe_json(fleet: ListedFleet, endpoint: FleetRuntime) -> dict[str, Any]:
    """Return an endpoint as JSON data."""
    reported_at = fleet.reported_at.isoformat().replace("+00:00", "Z") if fleet.reported_at is not None else None
    known = {"fleet": fleet.name, "is_current": fleet.is_current, "reported_at": reported_at}
    return {**endpoint.model_dump(mode="json"), **known, "state": endpoint.state}


def show_silent(fleets: Sequence[ListedFleet]) -> None:
    """Print a line for each fleet without reports of a server-manager."""
    now = SystemClock().now()
    for fleet in fleets:
        if (silence := describe_silence(fleet, now)) is not None:
            show_line(silence)


def describe_target(running: RunningTarget, routes: Mapping[str, Route], endpoint: str) -> str:
    """Return a target with its phase and role: `bot.v2.bf16 (ready, active)`.

    If the route sends requests to other endpoints, these are named as well: the requests fail.
    """
    route = routes.get(running.target.model)
    notes: list[str] = [running.phase]
    for role, served in route.by_role.items() if route is not None else ():
        if served.target == running.target:
            notes.append(role)
            before, now = served.runtime, running.runtime
            if before is not None and now is not None and before.digest != now.digest:
                notes.append(CHANGED)
            if endpoint not in served.endpoints and served.copies > 1:
                notes.append("a copy that its route does not name yet")
            elif endpoint not in served.endpoints:
                notes.append(f"but its route names {', '.join(served.endpoints)}")
    return f"{running.target} ({', '.join(notes)})"


def describe_missing_copies(routes: Mapping[str, Route]) -> list[str]:
    """Return a line for each active version that is on fewer endpoints than its release's policy asks for."""
    return [
        f"{route.active.target} is on {len(route.active.endpoints)} of {route.active.copies} endpoints: a copy goes "
        "only where the version behind it is not, and where memory is free."
        for _, route in sorted(routes.items())
        if route.active is not None and len(route.active.endpoints) < route.active.copies
    ]


def describe_row(fleet: ListedFleet, endpoint: FleetRuntime, routes: Mapping[str, Route]) -> tuple[str, ...]:
    """Return the row of an endpoint."""
    runtime = endpoint.runtime
    targets = [describe_target(target, routes, endpoint.endpoint) for target in endpoint.targets]
    copies = [f"{copy} (copy)" for copy in endpoint.copies]
    return (
        name_of(endpoint),
        endpoint.endpoint,
        endpoint.name,
        f"{runtime.engine} {runtime.engine_version}" if runtime else "not known",
        (runtime.digest if runtime else "") or "-",
        describe_state(endpoint) if fleet.is_current else f"last known: {describe_state(endpoint)}",
        f"{endpoint.reserved_bytes / 2**20:.0f} MiB",
        f"{endpoint.free_bytes / 2**20:.0f} MiB",
        ", ".join([*targets, *copies]) or "-",
    )


def name_of(endpoint: FleetRuntime) -> str:
    """Return the name of an endpoint in orders."""
    return endpoint.endpoint_name or endpoint.name


def is_empty(endpoint: FleetRuntime) -> bool:
    """Return whether an endpoint holds nothing."""
    return not endpoint.targets and not endpoint.copies


def describe_state(endpoint: FleetRuntime) -> str:
    """Return the state of an endpoint as text: in use, draining or drained with actor and reason, silent."""
    parts = ["in use"] if not endpoint.drained else []
    if endpoint.drained:
        progress = "drained" if is_empty(endpoint) else "draining"
        parts.append(f"{progress} by {endpoint.drained_by}: {endpoint.drain_reason}")
    silent = "its agent obeys another server-manager" if endpoint.fenced else "does not answer"
    return ", ".join([*parts, *([] if endpoint.answers else [silent])])


def describe_progress(endpoint: FleetRuntime) -> str:
    """Return the targets that a draining endpoint still holds, as text; empty if it holds none."""
    held = ", ".join(str(each.target) for each in endpoint.targets)
    left = ", ".join(endpoint.copies)
    parts = [f"it serves {held}"] if held else []
    return "; ".join([*parts, *([f"{left} moved, and stays until its answers there have ended"] if left else [])])


@endpoints_app.command("drain")
def drain(
    name: EndpointArgument,
    *,
    reason: ReasonOption,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is empty.")] = False,
    timeout: Annotated[str, typer.Option("--timeout", help="How long --wait waits.")] = "30m",
    expires: ExpiresOption = EXPIRES,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Drain an endpoint: it takes nothing new, and its versions move to other endpoints one after the other.

    The route of a version changes once the version answers elsewhere; no request fails. The order is refused if the
    other endpoints lack memory. It takes an administrator's credential.
    """
    stack, wait_s = find_stack(state), parse_duration(timeout).total_seconds()
    fact = EndpointOrdered(reason=reason, endpoint=name, drained=True, expires_at=expires_at(expires))
    ask_bus(stack, lambda js: _order(js, stack, fact))
    if wait:
        ask_bus(stack, lambda js: wait_until_empty(partial(read_runtimes, js), name, wait_s))
    line = f"{name} is empty" if wait else f"{name} is being drained; see `slipway endpoints`"
    show_result({"endpoint": name, "drained": True, "reason": reason}, line, as_json=as_json)


@endpoints_app.command("restore")
def restore(
    name: EndpointArgument,
    *,
    reason: ReasonOption,
    expires: ExpiresOption = EXPIRES,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Use a drained endpoint again; moved versions stay where they are. It needs an administrator's credential."""
    stack = find_stack(state)
    fact = EndpointOrdered(reason=reason, endpoint=name, drained=False, expires_at=expires_at(expires))
    ask_bus(stack, lambda js: _order(js, stack, fact))
    show_result({"endpoint": name, "drained": False, "reason": reason}, f"{name} is used again", as_json=as_json)


async def _order(js: JetStreamContext, stack: StackAddress, fact: EndpointOrdered) -> None:
    check_name(fact.endpoint, await read_runtimes(js))
    await give_order(js, stack, ALL_MODELS, fact)


def check_name(name: str, endpoints: Sequence[FleetRuntime]) -> None:
    """Raise CommandError unless the fleet has an endpoint of this name."""
    names = [name_of(endpoint) for endpoint in endpoints]
    if name not in names:
        raise CommandError(f"the fleet has no endpoint {name}; it has {', '.join(names) or 'none'}", Exit.USAGE)


async def wait_until_empty(
    read: Callable[[], Awaitable[Sequence[FleetRuntime]]], name: str, wait_s: float, poll_s: float = POLL_S
) -> None:
    """Return once a drained endpoint is empty; print its targets and its obstacle on standard error.

    Raises:
        CommandError: The fleet does not list the endpoint, or it is not empty after `wait_s`.
    """
    deadline, shown, progress = asyncio.get_running_loop().time() + wait_s, "", ""
    while True:
        endpoint = next((each for each in await read() if name_of(each) == name), None)
        if endpoint is None:
            raise CommandError(
                f"the fleet lists no endpoint {name} any more, so whether it is empty is not known: server-manager "
                "runs without it; see `slipway endpoints`"
            )
        if endpoint.drained and is_empty(endpoint):
            return
        if endpoint.drained and describe_progress(endpoint) != progress:
            progress = describe_progress(endpoint)
            typer.echo(progress, err=True)
        if endpoint.waits_for != shown:
            shown = endpoint.waits_for
            typer.echo(f"waiting: {shown}" if shown else "it goes on", err=True)
        if asyncio.get_running_loop().time() >= deadline:
            held = ", ".join(str(target.target) for target in endpoint.targets) or "copies"
            raise CommandError(f"{name} is not empty after {wait_s:g} s: it has {held}. {shown}".rstrip())
        await asyncio.sleep(poll_s)
