"""Three NATS servers: the leader of the routes steps down, is killed or cut off while facts, records and traffic move."""
# ruff: noqa: F811 - fixtures of another module are arguments here

import asyncio
import contextlib
import json
import os

import pytest

from clients.cli.connection import StackAddress, connected
from clients.cli.reading import read_messages
from contracts import facts as f
from contracts.routes import Route
from contracts.services import EVENTS
from deploy.local.state import ADMIN
from shared.messaging import topology
from shared.messaging.patience import PatientJetStream
from shared.messaging.provision import provision
from shared.storage.kv import Bucket
from testbed import factories as k
from testbed.gateway import Gateway, load_toy
from testbed.servers import connection, running
from testbed.services import running_service, stored_facts
from testbed.triton import TritonServer
from testbed.written import Counted, Published, audit, writing
from tests.integration.nats_cluster import ROUTES, asked, cluster, disturbed, js, until  # noqa: F401 - fixtures
from tests.integration.rollback_process import MODEL, MODULE, QUICK, alert, learn, publish, route_of, target
from tests.kit.soak import TIMES

pytestmark = pytest.mark.real
READS = 50
SWITCH_S = {"steps down": 10.0, "is killed": 30.0, "is cut off": 40.0}
"""More than `benchmarks/bench_cluster.py` allows: machines of tests are busy."""
EACH_TIME = ("is killed",)
"""A release has a server that is cut off, too (test_nats_cluster_release.py); its rollback, which takes half a minute, is left to `make soak-tests`."""
TRIGGER = k.trigger(name="slow")


@pytest.fixture
async def near(cluster):
    """A client of the server that leads the routes: the one that is disturbed."""
    client = await (await cluster.leader(ROUTES)).connect(max_reconnect_attempts=-1)
    yield client
    with contextlib.suppress(OSError):
        await client.close()


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    with running(TritonServer(tmp_path_factory.mktemp("triton"))) as triton:
        yield {version: load_toy(triton, MODEL, version) for version in (1, 2)}


@pytest.fixture(scope="module")
def gateway(cluster, toy, tmp_path_factory):
    """A gateway, and a controller beside it, which know all three servers."""
    folder = tmp_path_factory.mktemp("services")
    with (
        running(Gateway(folder, connection(cluster, None, folder / "gateway"))) as process,
        running_service(MODULE, connection(cluster, None, folder / "controller"), **QUICK),
    ):
        yield process


async def test_all_streams_and_records_have_three_copies(cluster, js):
    await cluster.settled()
    infos = await js.streams_info()
    assert {info.config.num_replicas for info in infos} == {3}
    assert len(infos) == len([*topology.streams(), *topology.buckets()])
    await js._api_request("$JS.API.STREAM.UPDATE.KV_drills", _with_copies(await js.stream_info("KV_drills"), 1))
    await provision(js, replicas=3)
    assert (await js.stream_info("KV_drills")).config.num_replicas == 3


async def test_a_command_leaves_a_server_that_is_cut_off(cluster):
    async with connected(StackAddress(cluster.settings(ADMIN), None, "the cluster")) as client:
        server = next(each for each in cluster.members if client.connected_url.netloc in each.url)
        cluster.cut_off(server)
        try:
            await until(lambda: client.is_connected and client.connected_url.netloc not in server.url, 60)
        finally:
            cluster.rejoin(server)
            await cluster.settled()


async def test_commands_read_through_a_server_that_another_one_has_told_of_no_consumer_yet(cluster, js):
    """The server that a command asks may not make its consumer, and knows of it some milliseconds later."""
    settings, subject = cluster.settings(ADMIN), "slipway.window.summarised.v1.other.monitor"
    await js.publish(subject, b"{}", stream=EVENTS)

    async def read(member):
        address = settings.model_copy(update={"nats_url": member.url})
        async with connected(StackAddress(address, None, "the cluster")) as client:
            for _ in range(READS):
                assert len(await read_messages(client.jetstream(timeout=10), EVENTS, subject, most=1)) == 1

    await asyncio.gather(*(read(member) for member in cluster.members for _ in range(3)))


async def test_a_command_of_a_user_who_may_not_ask_about_a_server_goes_on(cluster):
    async with connected(StackAddress(cluster.settings("merger"), None, "the cluster")) as client:
        await until(lambda: "$js.api.stream.info" in str(client.last_error).lower(), 60)
        await client.flush(5)  # the refusal of what the command did not ask itself would have ended it


def _with_copies(info, copies: int) -> bytes:
    return json.dumps({**info.config.as_dict(), "num_replicas": copies}).encode()


async def put_fresh_route(js, toy) -> int:
    """Write a route on which version 2 serves with version 1 behind it; return its epoch."""
    bucket = Bucket(js, "routes", Route)
    entry = await bucket.get(MODEL)
    epoch = entry.value.epoch + 1 if entry else 1
    route = Route(model=MODEL, epoch=epoch, active=toy[2], previous=toy[1], cause_id=f"fresh-{epoch}")
    await (bucket.create(MODEL, route) if entry is None else bucket.update(MODEL, route, entry.revision))
    return epoch


@pytest.mark.parametrize("how", SWITCH_S if TIMES > 1 else EACH_TIME)
async def test_nothing_is_lost_or_done_twice_and_traffic_moves_when_the_leader(cluster, js, toy, gateway, near, *, how):
    await learn(js, 1, 2, triggers=(TRIGGER,))
    epoch = await put_fresh_route(js, toy)
    changes = len(await stored_facts(js, f.DeploymentChanged, MODEL))
    completed = len(await stored_facts(js, f.RollbackCompleted, MODEL))
    published, counted = [Published(js), Published(PatientJetStream(near, timeout=10))], Counted(js)
    before = await counted.stored()
    async with asked(gateway) as answers:
        await until(lambda: answers[-1:] == ["v2"], 20)
        async with writing(*published, counted):
            await until(lambda: min(written_by(*published, counted)) > 5, 20)
            undisturbed = written_by(*published, counted)
            async with disturbed(cluster, how):
                event = asyncio.create_task(publish(js, alert(number=os.urandom(4).hex())))
                await until(lambda: answers[-1:] == ["v1"], SWITCH_S[how])
                await event
        await until_stored(js, f.RollbackCompleted, completed + 1)
    assert "v2" not in answers[-3:], "callers were answered all the time, and by the version behind in the end"
    route = await route_of(js)
    assert (route.active.target, route.epoch) == (target(1), epoch + 1)
    assert len(await stored_facts(js, f.DeploymentChanged, MODEL)) == changes + 1
    written = await audit(js, *published)
    more = zip(undisturbed, written_by(*published, counted), strict=True)
    assert all(after > before for before, after in more), "each of them wrote before and after"
    assert (written.lost, written.twice) == ([], [])
    assert await counted.stored() == before + counted.changes, "each change of the record happened once"


def written_by(*writers) -> list[int]:
    """Return how much each of them has written, facts or changes of a record."""
    return [each.changes if isinstance(each, Counted) else len(each.acknowledged) for each in writers]


async def until_stored(js, fact, count):
    async with asyncio.timeout(60):
        while len(await stored_facts(js, fact, MODEL)) < count:
            await asyncio.sleep(0.1)
