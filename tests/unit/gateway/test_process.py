"""A gateway whose background work failed ends, so that it is started again; one that is stopped just stops."""

import asyncio
import re
import subprocess
import sys

from contracts.routes import Route
from decisions.routes.edits import roll_back
from services.gateway.adapters.files import RecordFile
from services.gateway.process import Process, end_with
from services.gateway.settings import GatewaySettings
from shared.runtime.settings import Connection
from testbed import factories
from testbed.gateway import ROOT


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


async def test_the_documented_edit_of_saved_routes_leaves_a_version_until_the_bus_has_the_rollback(tmp_path):
    connection, route = Connection(state_dir=tmp_path), factories.route()
    path = connection.work_dir("gateway") / "routes.json"
    RecordFile(path, Route).save({route.model: route})
    edit = re.search(r"<<'END'\n(.*?)END\n", (ROOT / "docs/rollbacks.md").read_text(), re.DOTALL)[1]
    subprocess.run([sys.executable, "-", tmp_path, route.model], input=edit, text=True, check=True)
    table = Process(connection, GatewaySettings()).dependencies.tables["production"]
    assert table.get(route.model).in_traffic == (route.previous,)
    await table.apply(route.model, route, 1)  # the bus is back, without the rollback
    assert (table.get(route.model).active, table.older) == (route.previous, [route.model])
    rolled_back = roll_back(route, route.active.target, cause_id="order").route
    await table.apply(route.model, rolled_back, 2)
    assert (table.get(route.model), table.older) == (rolled_back, [])
