"""A reader makes as many consumers as it can: others still read and order, and `slipway doctor` names a full stream."""

import asyncio
import json
import uuid
from datetime import UTC, datetime

import pytest
from nats.js.api import AckPolicy, ConsumerConfig

from contracts import facts as f
from contracts.policy import Approvals
from contracts.routes import Route
from contracts.services import EVENTS, INBOX, ORDERS
from deploy.identity.key_folder import KeyFolder
from shared.messaging import topology
from shared.messaging.provision import provision
from shared.messaging.publishing import publish_event
from shared.storage.blobs import Store
from shared.storage.kv import Bucket
from testbed import factories
from testbed.servers import NatsServer, S3Server, connection, running
from testbed.services import running_service
from tests.integration import registry_process as lifecycle
from tests.kit import fakes_registry as k
from tests.kit.command import run_command

MODEL = k.MODEL
base, checkpoint = lifecycle.base, lifecycle.checkpoint
"""The fixtures of a registry on a real bus and store."""
USERS = {"victor": ("viewer",), "oscar": ("operator", "approver"), "admin": ("administrator",)}
MEMBERS = {"vera": ("viewer",), "sam": ("operator", "approver")}
READ = (EVENTS, INBOX, ORDERS, "KV_routes", "KV_releases")
COMMANDS = (("status",), ("events",), ("alerts",), ("rollback", MODEL, "--reason", "slow", "--dry-run"))


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = KeyFolder(tmp_path_factory.mktemp("keys"))
    folder.prepare(["127.0.0.1", "localhost"], datetime.now(UTC))
    folder.set_team("shop", [MODEL])
    for name, roles in USERS.items():
        folder.add(name, roles)
    for name, roles in MEMBERS.items():
        folder.add(name, roles, team="shop")
    return folder


@pytest.fixture
def empty(tmp_path, keys):
    """A bus with streams and buckets, and nothing in them."""
    server = NatsServer(tmp_path, keys)
    server.start()
    asyncio.run(prepare(server))
    yield server
    server.discard()


async def prepare(server):
    provisioner = await server.connect("provisioner")
    await provision(provisioner.jetstream(timeout=30))
    await provisioner.close()


@pytest.fixture
def server(empty):
    asyncio.run(fill(empty))
    return empty


@pytest.fixture
def settings(empty, keys, tmp_path):
    with running(S3Server(tmp_path / "s3", keys)) as store:
        yield connection(empty, store, tmp_path)


@pytest.fixture
def store(settings):
    return Store(settings)


async def fill(server):
    client = await server.connect()
    js = client.jetstream(timeout=10)
    for fact in (factories.fact(f.ReleaseOpened, release_id="r-1", model=MODEL), factories.fact(f.AlertRaised)):
        changes = {"id": str(uuid.uuid4()), "subject": MODEL, "source": factories.source_for(type(fact))}
        await publish_event(js, factories.event(fact, **changes))
    served = {"active": factories.served(7, model=MODEL), "previous": factories.served(6, model=MODEL)}
    await Bucket(js, "routes", Route).create(MODEL, Route(model=MODEL, epoch=3, cause_id="c", **served))
    await client.close()


async def try_all(server, viewer):
    """Try to make durable consumers of each stream as a viewer: of any name, and of each that it may have."""

    async def ignore(_error):
        """What is refused is what is tested."""

    client = await server.connect(viewer, error_cb=ignore)
    names = [*(f"x{number}" for number in range(200)), *(f"{viewer}-{number}" for number in range(200))]
    for stream in READ:
        subject = f"$KV.{stream[3:]}.{MODEL}.*" if stream.startswith("KV_") else f"slipway.*.*.v1.{MODEL}.*"
        for name in names:
            config = {"durable_name": name, "name": name, "ack_policy": "none", "filter_subject": subject}
            body = json.dumps({"stream_name": stream, "config": config}).encode()
            for where in (f"CREATE.{stream}.{name}.{subject}", f"CREATE.{stream}", f"DURABLE.CREATE.{stream}.{name}"):
                await client.publish(f"$JS.API.CONSUMER.{where}", body, reply=f"_INBOX_{viewer}.made")
        await client.request("$JS.API.STREAM.NAMES", b"", timeout=60)  # what is before it is done
    await client.close()


async def fill_up(server):
    """Make as many consumers of each stream as an administrator as it may have."""
    client = await server.connect("admin")
    js = client.jetstream(timeout=60)
    for stream in READ:
        free = topology.CONSUMERS - (await js.stream_info(stream)).state.consumer_count
        for first in range(0, free, 100):
            numbers = range(first, min(first + 100, free))
            configs = (ConsumerConfig(durable_name=f"x{number}", ack_policy=AckPolicy.NONE) for number in numbers)
            await asyncio.gather(*(js.add_consumer(stream, config) for config in configs))
    await client.close()


async def counts(server):
    client = await server.connect()
    try:
        return {info.config.name: info.state.consumer_count for info in await client.jetstream().streams_info()}
    finally:
        await client.close()


def slipway(server, name, *arguments):
    variables = {
        "SLIPWAY_NATS_URL": server.url,
        "SLIPWAY_NATS_CREDENTIALS": str(server.keys.credential(name)),
        "SLIPWAY_NATS_CA": str(server.keys.authority),
        "SLIPWAY_S3_ENDPOINT": "127.0.0.1:9",
        "SLIPWAY_STATE_DIR": str(server.folder),
    }
    return run_command(variables, *arguments)


def test_viewers_who_make_all_consumers_that_they_can_keep_nobody_from_reading_and_ordering(server):
    before = asyncio.run(counts(server))
    for viewer in ("victor", "vera"):
        asyncio.run(try_all(server, viewer))
    made = {stream: count - before[stream] for stream, count in asyncio.run(counts(server)).items()}
    assert made[EVENTS] > 0, "they may read"
    assert max(made.values()) <= 20
    for name in ("oscar", "sam"):
        for command in COMMANDS:
            status, out, err = slipway(server, name, *command)
            assert (status, bool(out)) == (0, True), (name, command, err)
    status, _, err = slipway(server, "victor", "events")
    assert status != 0
    assert "consumers that this identity may have" in err, "who took all its own is told so"


def test_a_rollback_is_ordered_decided_and_answered_while_streams_have_no_room_for_a_consumer(server):
    asyncio.run(fill_up(server))
    assert {(asyncio.run(counts(server)))[stream] for stream in READ} == {topology.CONSUMERS}
    assert slipway(server, "sam", "rollback", MODEL, "--reason", "slow", "--dry-run")[0] == 0
    order = ("rollback", MODEL, "--reason", "slow")
    with running_service("services.rollback_controller.main", server.settings("rollback-controller")):
        for target, answer in (((), "previous_not_ready"), (("--target", f"{MODEL}.v9.bf16"), "not_in_traffic")):
            status, out, err = slipway(server, "sam", *order, *target)
            assert (status, f"was not rolled back: {answer}" in err) == (1, True), (out, err)
    status, _, err = slipway(server, "sam", "status")
    assert status != 0
    assert f"The stream {ORDERS} has all the consumers" in err or "see `slipway doctor`" in err
    status, out, _ = slipway(server, "oscar", "doctor", "--json")
    (finding,) = [each for each in json.loads(out)["findings"] if each["check"] == "bus consumers"]
    assert (status, finding["state"]) == (1, "failure")
    assert f"{EVENTS} has {topology.CONSUMERS} of {topology.CONSUMERS}" in finding["detail"]


async def test_orders_about_a_release_are_given_and_answered_while_streams_have_no_room_for_a_consumer(
    empty, settings, checkpoint
):
    async def order(*arguments):
        return await asyncio.to_thread(slipway, empty, "oscar", *arguments)

    client = await empty.connect()
    js = client.jetstream(timeout=30)
    async with lifecycle.registry(js, settings):
        policy = {"approvals": Approvals(count=2)}
        release, digest = await lifecycle.to_approval(js, lifecycle.Log(js), checkpoint, **policy)
        await fill_up(empty)
        for given, answer in (
            (("approve", f"{MODEL}@v9"), "no release of support-bot@v9 is in progress"),
            (("promote", MODEL, "--reason", "soon"), "has no canary"),
        ):
            status, _, err = await order(*given)
            assert (status, answer in err) == (1, True), (given, err)
        for given, answer in (
            (("pause", MODEL), f"paused {MODEL} v1"),
            (("pause", f"{MODEL}@candidate"), f"paused {MODEL} v1"),
            (("resume", f"{MODEL}@v1"), f"{MODEL} v1 goes on"),
            (("approve", MODEL), "1 of 2 approvals are there"),
            (("approve", release, "--json"), digest),
            (("cancel", release, "--reason", "no need"), f"{MODEL} v1"),
        ):
            status, out, err = await order(*given)
            assert (status, answer in out) == (0, True), (given, out, err)
        status, _, err = await order("cancel", MODEL, "--reason", "no need")
        assert (status, f"the release of {MODEL} v1 is not in progress, it ended as" in err) == (1, True), err
    await client.close()
