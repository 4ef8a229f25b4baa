"""The check of the fleet's endpoints: which answer, what they hold, and whether active and previous stand apart."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime

from clients.cli.connection import find_stack
from clients.cli.doctor.findings import Finding, ok, skipped, warning
from clients.cli.releases.runtimes import ListedFleet, read_fleets
from clients.cli.releases.version_records import read_routes
from contracts.routes import Route
from contracts.runtimes import FleetRuntime
from deploy.local.state import StateFolder
from shared.runtime.clock import SystemClock

CHECK = "endpoints"
GIB = 1024**3


def check_endpoints(folder: StateFolder) -> Finding:
    """Return what the endpoints of a running stack hold, as server-manager last saw them."""
    try:
        address = find_stack(folder.path)
        fleets, routes = asyncio.run(read_fleets(address)), asyncio.run(read_routes(address))
    except Exception as error:  # noqa: BLE001 - the bus has a check of its own
        return skipped(CHECK, f"not known until the message bus answers ({type(error).__name__})")
    return assess_endpoints(fleets, routes, SystemClock().now())


def assess_endpoints(fleets: Sequence[ListedFleet], routes: Mapping[str, Route], now: datetime) -> Finding:
    """Return a warning for a fleet that no server-manager reports on, and for endpoints that serve as they should not.

    These do not answer, or a version and the one behind it share one.
    """
    endpoints = [endpoint for fleet in fleets for endpoint in fleet.endpoints]
    if not endpoints:
        return skipped(CHECK, "no server-manager has listed them yet")
    detail = "; ".join(map(_describe, endpoints))
    silent = [silence for fleet in fleets if (silence := fleet.describe_silence(now)) is not None]
    if silent:
        return warning(CHECK, "; ".join([*silent, detail]), "start server-manager; until then nothing is repaired")
    if any(not endpoint.answers for endpoint in endpoints):
        return warning(CHECK, detail, "see `slipway ps`, or your attached server; it is used again when it is back")
    shared = sorted(model for model, route in routes.items() if _shares(route, endpoints))
    if shared:
        reason = f"active and previous share one: {', '.join(shared)}; {detail}"
        parted = "copies part in minutes; else the next release of each, or a restart of its Triton, parts them"
        return warning(CHECK, reason, parted)
    return ok(CHECK, detail)


def _describe(endpoint: FleetRuntime) -> str:
    name = endpoint.endpoint_name or endpoint.name
    if not endpoint.answers:
        return f"{name} at {endpoint.endpoint} does not answer"
    budget = endpoint.memory_budget_bytes  # none of an attached server
    size = f", {endpoint.reserved_bytes / GIB:.1f} of {budget / GIB:.1f} GiB reserved" if budget else ""
    drained = f", drained by {endpoint.drained_by}" if endpoint.drained else ""
    return f"{name} holds {len(endpoint.targets)} targets{size}{drained}"


def _shares(route: Route, endpoints: Sequence[FleetRuntime]) -> bool:
    """Return whether active and previous are on one endpoint of a runtime of which several are used."""
    if route.active is None or route.previous is None:
        return False
    if set(route.active.endpoints).isdisjoint(route.previous.endpoints):
        return False
    runtimes = [endpoint.name for endpoint in endpoints if endpoint.endpoint in route.active.endpoints]
    used = [endpoint.name for endpoint in endpoints if not endpoint.drained]
    return any(used.count(runtime) > 1 for runtime in runtimes)
