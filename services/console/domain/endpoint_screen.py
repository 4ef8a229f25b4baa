"""Data of the endpoints page: each Triton's targets and load, as server-managers and gateways report. Pure."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from contracts.routes import Route
from contracts.runtimes import FleetRuntime, RunningTarget
from decisions.serving.runtimes import ListedFleet
from services.console.domain.rows import instant
from services.console.domain.screens import Screen, Time

_MODELS: Final = re.compile(r"([a-z0-9-]+)\.v[0-9]+\.")
"""Matches the model names in the targets that a text mentions."""
State = Literal["serving", "ejected", "draining", "drained", "silent", "fenced"]


@dataclass(frozen=True)
class GatewayUse:
    """The reports of all gateway processes about an endpoint.

    Attributes:
        processes: Processes that reported recently, with or without requests to it.
        outstanding_tokens: Sum over all processes.
        ejecting: Processes that send it no requests for at least one target.
        since: Start of the first such ejection; None without one.
    """

    processes: int
    outstanding_tokens: int = 0
    ejecting: int = 0
    since: datetime | None = None


class HeldTarget(Screen):
    """A target on an endpoint.

    Attributes:
        role: Its role in the route: `active`, `canary`, `shadow`, `previous`; empty outside production.
        named: Whether its route lists this endpoint, so that requests for the target go here.
        measured_bytes: Peak memory measured; None without a measurement.
    """

    target: str
    model: str
    role: str
    named: bool
    phase: str
    reserved_bytes: int
    measured_bytes: int | None


class EndpointRow(Screen):
    """A Triton endpoint: state, targets, memory, and the gateways' load on it.

    Attributes:
        state: Server-manager's; `ejected` if that is `serving` and a gateway ejects a target.
        since: Start of the state; None if unknown.
        is_current: Whether the fleet's server-manager reports; if not, only gateway figures are current.
        reported_at: Time of the last report, if server-manager stopped reporting; None if unknown.
        reasons: Why it is drained, not yet empty, or takes no requests.
        copies: Targets that it holds or loads while another endpoint serves them.
        others: Number of hidden targets of other teams.
        measured_bytes: Peak memory of the measured targets; None without any.
        budget_bytes: Limit of reservations, alone or with other endpoints; None if unknown.
        outstanding_tokens: Tokens outstanding at the endpoint; None if no gateway reports.
        gateways: Gateway processes that report.
        ejecting: Gateway processes that eject it for a target.
    """

    fleet: str
    name: str
    runtime: str
    engine: str
    address: str
    state: State
    since: Time | None
    is_current: bool
    reported_at: Time | None
    reasons: tuple[str, ...]
    held: tuple[HeldTarget, ...]
    copies: tuple[str, ...]
    others: int
    reserved_bytes: int
    measured_bytes: int | None
    budget_bytes: int | None
    free_bytes: int | None
    outstanding_tokens: int | None
    gateways: int
    ejecting: int


def endpoint_row(
    fleet: ListedFleet,
    endpoint: FleetRuntime,
    routes: Mapping[str, Route],
    use: GatewayUse | None,
    sees: Callable[[str], bool],
) -> EndpointRow:
    """Return an endpoint with the data that a person may see.

    Args:
        fleet: The endpoint's fleet.
        endpoint: Server-manager's record of it.
        routes: Routes by model.
        use: Gateways' reports about it; None without any.
        sees: Returns whether the person may see a model.
    """
    held = tuple(_held(target, routes, endpoint.endpoint) for target in endpoint.targets if sees(target.target.model))
    copies = tuple(name for name in endpoint.copies if sees(name.partition(".")[0]))
    measured = [target.measured_bytes for target in endpoint.targets if target.measured_bytes]
    ejecting = use.ejecting if use is not None else 0
    state: State = "ejected" if endpoint.state == "serving" and ejecting else endpoint.state
    since = use.since if use is not None and state == "ejected" else endpoint.since
    return EndpointRow(
        fleet=fleet.name,
        name=endpoint.endpoint_name or endpoint.name,
        runtime=endpoint.name,
        engine=f"{endpoint.runtime.engine} {endpoint.runtime.engine_version}".strip() if endpoint.runtime else "",
        address=endpoint.endpoint,
        state=state,
        since=instant(since),
        is_current=fleet.is_current,
        reported_at=instant(fleet.reported_at),
        reasons=tuple(_reasons(endpoint, use, ejecting, sees)),
        held=held,
        copies=copies,
        others=len(endpoint.targets) + len(endpoint.copies) - len(held) - len(copies),
        reserved_bytes=endpoint.reserved_bytes,
        measured_bytes=sum(measured) if measured else None,
        budget_bytes=endpoint.memory_budget_bytes or None,
        free_bytes=endpoint.free_bytes if endpoint.memory_budget_bytes else None,
        outstanding_tokens=use.outstanding_tokens if use is not None else None,
        gateways=use.processes if use is not None else 0,
        ejecting=ejecting,
    )


def _held(running: RunningTarget, routes: Mapping[str, Route], address: str) -> HeldTarget:
    route = routes.get(running.target.model)
    roles = route.by_role.items() if route is not None else ()
    role, served = next(((role, served) for role, served in roles if served.target == running.target), ("", None))
    return HeldTarget(
        target=str(running.target),
        model=running.target.model,
        role=role,
        named=served is not None and address in served.endpoints,
        phase=running.phase,
        reserved_bytes=running.memory_bytes,
        measured_bytes=running.measured_bytes or None,
    )


def _reasons(
    endpoint: FleetRuntime, use: GatewayUse | None, ejecting: int, sees: Callable[[str], bool]
) -> Iterator[str]:
    if endpoint.drained:
        yield f"Drained by {endpoint.drained_by}: {endpoint.drain_reason}"
    if endpoint.waits_for:
        is_seen = _names_only(endpoint.waits_for, endpoint, sees)
        yield f"Not empty yet: {endpoint.waits_for if is_seen else 'a target of another team cannot be moved.'}"
    if endpoint.state == "silent":
        yield "It does not answer server-manager."
    if endpoint.state == "fenced":
        yield "Its agent obeys another server-manager, with a higher term."
    if use is not None and ejecting:
        yield f"Gateway processes that send some or all of their requests elsewhere: {ejecting} of {use.processes}."


def _names_only(text: str, endpoint: FleetRuntime, sees: Callable[[str], bool]) -> bool:
    """Return whether a text about an endpoint mentions no hidden model, not even within a path."""
    names = (*(str(each.target) for each in endpoint.targets), *endpoint.copies)
    there = {name.partition(".")[0] for name in names}
    hidden = {model for model in (*there, *_MODELS.findall(text)) if not sees(model)}
    return not any(model in text for model in hidden)
