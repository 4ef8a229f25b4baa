"""Whether the list of runtimes is kept up to date, as `slipway runtime release` asks before it trusts it (real NATS)."""

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta

import pytest

from clients.cli.commands.runtime import check_current
from clients.cli.output import CommandError
from clients.cli.releases.runtimes import find_idle_fleets, list_fleets
from contracts.runtimes import FleetRuntime, FleetRuntimes
from services.server_manager.adapters.kv_state import KvLeadership, KvRecords, KvRuntimes
from services.server_manager.domain.records import Leader
from shared.runtime.clock import SystemClock
from tests.kit.fakes_serving import MemoryTerms

FLEET = FleetRuntimes(runtimes=(FleetRuntime(name="next", endpoint="b:2", answers=True),))


@pytest.fixture
async def lead(js):
    """A fleet whose server-manager said that everything answers."""
    bucket = await js.key_value("servers")
    for key in await bucket.keys() if (await bucket.status()).values else []:
        await bucket.purge(key)
    await KvRuntimes(KvRecords(lambda: js, "servers", FleetRuntimes), "main").write(FLEET)
    lead = KvLeadership(KvRecords(lambda: js, "servers", Leader), "main", "one", SystemClock(), MemoryTerms())
    assert await lead.hold()
    return lead


@contextlib.asynccontextmanager
async def renewing(lead):
    async def renew():
        while True:
            await asyncio.sleep(0.2)
            await lead.confirm()

    task = asyncio.create_task(renew())
    yield
    task.cancel()


async def test_a_list_is_current_while_its_server_manager_renews_its_lease(js, lead):
    async with renewing(lead):
        assert await find_idle_fleets(js, 3.0) == []
    assert await find_idle_fleets(js, 0.5) == ["main"]


async def test_a_server_manager_that_gave_its_lease_up_is_not_waited_for(js, lead):
    await lead.release()
    async with asyncio.timeout(5):
        assert await find_idle_fleets(js, 60.0) == ["main"]


async def test_a_fleet_without_a_lease_is_idle(js, lead):
    await (await js.key_value("servers")).purge("main.leader")
    assert await find_idle_fleets(js, 0.5) == ["main"]


async def test_a_list_says_whether_it_is_current_and_when_it_was_reported_last(js, lead, monkeypatch):
    async def read():
        (fleet,) = await list_fleets(js, within_s=0.5)
        return fleet

    async with renewing(lead):
        fleet = await read()
        assert (fleet.name, fleet.endpoints, fleet.is_current) == ("main", FLEET.runtimes, True)
        monkeypatch.setattr("clients.cli.releases.runtimes.NEW_S", 0.0)  # as where the clocks of bus and command differ
        assert (await read()).is_current
    gone = await read()
    assert not gone.is_current
    assert timedelta() < datetime.now(UTC) - gone.reported_at < timedelta(minutes=2)
    await lead.release()
    monkeypatch.undo()
    assert not (await read()).is_current, "it has just given its lease up"
    await (await js.key_value("servers")).purge("main.leader")
    assert (await read()).reported_at is None


def test_a_release_is_refused_with_what_is_not_known():
    check_current("next", [])
    with pytest.raises(
        CommandError, match="main has not renewed its lease for 5 s, so it is not known whether next answ"
    ):
        check_current("next", ["main"])
