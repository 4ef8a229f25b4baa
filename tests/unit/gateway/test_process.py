"""A gateway whose background work failed ends, so that it is started again; one that is stopped just stops."""

import asyncio

import pytest

from contracts.routes import Route
from services.gateway.adapters.files import RecordFile
from services.gateway.process import Process, end_with
from services.gateway.settings import GatewaySettings
from shared.runtime.settings import Connection
from testbed import factories


async def broken():
    raise RuntimeError


async def test_failed_work_ends_the_process():
    stopped = asyncio.Event()
    end_with(asyncio.ensure_future(broken()), stopped.set)
    await asyncio.wait_for(stopped.wait(), 5)


async def test_work_that_is_cancelled_or_done_does_not():
    stopped = []
    waiting = end_with(asyncio.ensure_future(asyncio.sleep(60)), lambda: stopped.append(1))
    done = end_with(asyncio.ensure_future(asyncio.sleep(0)), lambda: stopped.append(1))
    await done
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert not stopped


@pytest.mark.parametrize("content", [None, "", "{}", '{"support-bot": {"model": "support-bot", "epoch": "?"}}'])
def test_a_file_of_routes_without_any_ends_the_process(tmp_path, content):
    path = tmp_path / "routes.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit, match="no route can be read there"):
        Process(Connection(state_dir=tmp_path), GatewaySettings(route_file=path))


def test_routes_of_a_file_count_as_lost(tmp_path):
    path = tmp_path / "routes.json"
    RecordFile(path, Route).save({factories.MODEL: factories.route()})
    process = Process(Connection(state_dir=tmp_path), GatewaySettings(route_file=path))
    process.state.refresh()
    assert process.bus.metrics.get_sample_value("slipway_gateway_routes_lost") == 1.0
    assert "routes_lost" in process.dependencies.tables["production"].problem
