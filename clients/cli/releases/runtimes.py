"""Read the runtimes of the serving fleet."""

from datetime import datetime

from nats.js import JetStreamContext

from clients.cli.reading import RecordsOfModels, last_message
from clients.cli.views.render import duration
from contracts.runtimes import LEADER_SUFFIX, RUNTIMES_SUFFIX, FleetRuntime, FleetRuntimes
from decisions.serving.runtimes import ListedFleet, listed_fleet
from shared.runtime.clock import SystemClock


def describe_silence(fleet: ListedFleet, now: datetime) -> str | None:
    """Return a sentence that no server-manager reports on a fleet; None if it is current."""
    if fleet.is_current:
        return None
    ago = f"no server-manager of the fleet {fleet.name} reports"
    if fleet.reported_at is not None:
        since = duration(max(0.0, (now - fleet.reported_at).total_seconds()))
        ago = f"the server-manager of the fleet {fleet.name} last reported {since} ago"
    return f"{ago}: what is listed is what was known last; see `slipway ps`"


async def read_runtimes(js: JetStreamContext) -> list[FleetRuntime]:
    """Return the runtimes of all fleets, as their server-managers last saw them."""
    return [endpoint for fleet in await read_fleets(js) for endpoint in fleet.endpoints]


async def read_fleets(js: JetStreamContext) -> list[ListedFleet]:
    """Return all fleets by name, each with whether its server-manager reports."""
    records = await RecordsOfModels(js, "servers", FleetRuntimes).matching(f"*{RUNTIMES_SUFFIX}")
    fleets, now = [], SystemClock().now()
    for key, fleet in sorted(records.items()):
        name = key.removesuffix(RUNTIMES_SUFFIX)
        lease = await last_message(js, "KV_servers", f"$KV.servers.{name}{LEADER_SUFFIX}")
        renewed_at = lease.at if lease is not None and lease.data else None
        fleets.append(listed_fleet(name, fleet, renewed_at, now))
    return fleets
