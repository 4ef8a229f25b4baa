"""The screen of the endpoints: each Triton's targets and load, by server-manager and gateways. Pure."""

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
"""The models of the targets that a text names."""
State = Literal["serving", "ejected", "draining", "drained", "silent", "fenced"]


@dataclass(frozen=True)
class GatewayUse:
    """The reports of all gateway processes about an endpoint.

    Attributes:
        processes: How many have reported lately, whatever they have there.
        outstanding_tokens: Of all of them.
        ejecting: How many of them send no requests there, of one target at least.
        since: When the first of these was seen to do so; None without one.
    """

    processes: int
    outstanding_tokens: int = 0
    ejecting: int = 0
    since: datetime | None = None


class HeldTarget(Screen):
    """A target on an endpoint.

    Attributes:
        role: What its route has it as: `active`, `canary`, `shadow`, `previous`; empty if it serves no production.
        named: Whether its route names this endpoint, so that it gets requests there.
        measured_bytes: The most memory that it was seen to take; None if nothing was measured.
    """

    target: str
    model: str
    role: str
    named: bool
    phase: str
    reserved_bytes: int
    measured_bytes: int | None


class EndpointRow(Screen):
    """A Triton: its state, targets, memory, and the gateways' load on it.

    Attributes:
        state: `ejected` if a gateway sends no requests there; the others are server-manager's.
        since: When the state began; None if that is not known.
        is_current: Whether the fleet's server-manager reports: else only the gateways' figures are current.
        reported_at: Time of its last report if it has stopped reporting; None if that is not known.
        reasons: Author and reason of a drain, its obstacle, and why it takes no requests.
        copies: Targets that it holds, or loads, while another endpoint serves them.
        others: Targets of other teams, which are not shown.
        measured_bytes: Peak memory of the targets with a measurement; None without any.
        budget_bytes: Limit of reservations, alone or with other endpoints; None if not known.
        outstanding_tokens: Tokens outstanding at the endpoint; None if no gateway reports.
        gateways: Number of gateway processes that report.
        ejecting: Number of them that eject it.
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
    """Return an endpoint as a person may see it.

    Args:
        fleet: Its fleet.
        endpoint: What server-manager stored.
        routes: The routes by model, of which roles are.
        use: What the gateways report of it; None if none of them reports.
        sees: Whether the person may see a model.
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
    """Return whether a text about an endpoint names no model that a person may not see, also as a part of a path."""
    names = (*(str(each.target) for each in endpoint.targets), *endpoint.copies)
    there = {name.partition(".")[0] for name in names}
    hidden = {model for model in (*there, *_MODELS.findall(text)) if not sees(model)}
    return not any(model in text for model in hidden)
