"""Whether the list of runtimes is kept up to date, as command and console show it (real NATS)."""

from datetime import UTC, datetime, timedelta

from clients.cli.releases.runtimes import read_fleets
from contracts.runtimes import FleetRuntime, FleetRuntimes
from services.console.adapters.fleets import BusFleets
from services.server_manager.adapters.kv_state import KvLeadership, KvRecords, KvRuntimes
from services.server_manager.domain.records import Leader
from shared.runtime.clock import SystemClock
from tests.kit.fakes_serving import MemoryTerms

FLEET = FleetRuntimes(runtimes=(FleetRuntime(name="next", endpoint="b:2", answers=True),))


async def test_command_and_console_know_a_fleet_as_current_by_the_lease_of_its_server_manager(js):
    bucket = await js.key_value("servers")
    for key in await bucket.keys() if (await bucket.status()).values else []:
        await bucket.purge(key)
    await KvRuntimes(KvRecords(lambda: js, "servers", FleetRuntimes), "main").write(FLEET)
    console = BusFleets(lambda: js, SystemClock())
    (fleet,) = await read_fleets(js)
    assert (fleet.name, fleet.endpoints, fleet.is_current, fleet.reported_at) == ("main", FLEET.runtimes, False, None)
    assert await console.read() == (fleet,)
    lead = KvLeadership(KvRecords(lambda: js, "servers", Leader), "main", "one", SystemClock(), MemoryTerms())
    assert await lead.hold()
    (fleet,) = await read_fleets(js)
    assert fleet.is_current
    assert await console.read() == (fleet,)
    written = await bucket_time(js)
    assert timedelta(seconds=-2) < datetime.now(UTC) - written < timedelta(minutes=1)
    await bucket.purge("main.leader")
    assert [(each.is_current, each.reported_at) for each in await read_fleets(js)] == [(False, None)]


async def bucket_time(js):
    """Return when the bus stored the lease."""
    return (await js.get_msg("KV_servers", subject="$KV.servers.main.leader")).time
