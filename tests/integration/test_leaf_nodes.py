"""A hub and two clusters as its leaf nodes, as docs/kubernetes.md configures them: alerts cross, orders do not."""

import asyncio
import contextlib
import json
from functools import partial

import nats
import nats.errors
import nats.js.errors
import pytest
from nats.js.api import ExternalStream, StreamConfig, StreamSource

from contracts.facts import AlertRaised, CheckpointReady, RollbackOrdered
from contracts.services import EVENTS, INBOX, ORDERS, stream_subjects
from testbed.ports import free_port
from testbed.servers import BIN, Throwaway, accepts, running

CLUSTERS = ("eu", "us")
DENIED = '["slipway.>"]'
ALERT = f"{AlertRaised.TYPE}.chat.monitor"
OUTSIDE = (f"{CheckpointReady.TYPE}.chat.trainer", f"{RollbackOrdered.TYPE}.chat.admin")


class Domain(Throwaway):
    """A NATS with a JetStream domain of its own: the hub, or a cluster's bus as a leaf node of it."""

    def __init__(self, folder, name, *, listens=None, hub=None):
        self.name = name
        super().__init__(folder)
        self.port = free_port()
        text = f'server_name: {name}\nlisten: "127.0.0.1:{self.port}"\n'
        text += f'jetstream {{ domain: {name}, store_dir: "{self.folder}/js" }}\n'
        if listens is not None:
            text += f'leafnodes {{ listen: "127.0.0.1:{listens}" }}\n'
        if hub is not None:
            text += f'leafnodes {{ remotes: [{{ url: "nats-leaf://127.0.0.1:{hub}", '
            text += f"deny_imports: {DENIED}, deny_exports: {DENIED} }}] }}\n"
        (self.folder / "nats.conf").write_text(text)

    def command(self):
        return [str(BIN / "nats-server"), "-c", str(self.folder / "nats.conf")]

    def ready(self):
        return accepts(self.port)

    async def connect(self):
        return await nats.connect(f"nats://127.0.0.1:{self.port}")


def mirror_of(cluster):
    return f"{cluster.upper()}_EVENTS"


async def until(look):
    """Return the first true result of a coroutine function that is asked again and again."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(nats.errors.Error, nats.js.errors.Error):
                if result := await look():
                    return result
            await asyncio.sleep(0.05)


@pytest.fixture
def servers(tmp_path):
    """A hub and two clusters."""
    leaf_port = free_port()
    with contextlib.ExitStack() as stack:
        hub = stack.enter_context(running(Domain(tmp_path, "hub", listens=leaf_port)))
        leaves = {name: stack.enter_context(running(Domain(tmp_path, name, hub=leaf_port))) for name in CLUSTERS}
        yield {"hub": hub, **leaves}


@pytest.fixture
async def clusters(servers):
    """Clients of the hub and of two clusters with their streams; the hub mirrors the event log of each."""
    clients = {name: await server.connect() for name, server in servers.items()}
    try:
        for name in CLUSTERS:
            js = clients[name].jetstream()
            for stream in (EVENTS, INBOX, ORDERS):
                await js.add_stream(StreamConfig(name=stream, subjects=stream_subjects(stream)))
            origin = ExternalStream(api=f"$JS.{name}.API")
            mirror = StreamSource(name=EVENTS, external=origin)
            await clients["hub"].jetstream().add_stream(StreamConfig(name=mirror_of(name), mirror=mirror))
        yield clients
    finally:
        for client in clients.values():
            await client.close()


async def subjects(client, stream):
    """Return the subjects of all messages of a stream."""
    info = await client.jetstream().stream_info(stream, subjects_filter=">")
    return info.state.subjects or {}


async def test_an_alert_of_each_cluster_arrives_at_the_hub_and_nothing_else_crosses(clusters):
    for name in CLUSTERS:
        await clusters[name].jetstream().publish(ALERT, json.dumps({"cluster": name}).encode())
    for name in CLUSTERS:
        await until(partial(subjects, clusters["hub"], mirror_of(name)))
        message = await clusters["hub"].jetstream().get_last_msg(mirror_of(name), ALERT)
        assert json.loads(message.data) == {"cluster": name}, "the mirror of a cluster has its own alerts only"

    delivered = []

    async def note(message):
        delivered.append(message.subject)

    for name in ("hub", "us"):
        await clusters[name].subscribe("slipway.>", cb=note)
        await clusters[name].flush()
    for subject in OUTSIDE:
        await clusters["hub"].publish(subject, b"{}")
        await clusters["eu"].jetstream().publish(subject, b"{}")
    await clusters["hub"].flush()
    # What crosses takes the same connections in order: once this alert is at the hub, an order would be there, too.
    await clusters["eu"].jetstream().publish(ALERT, b"{}")

    async def has_both_alerts():
        return (await subjects(clusters["hub"], mirror_of("eu"))).get(ALERT) == 2

    await until(has_both_alerts)
    assert delivered == list(OUTSIDE), "the hub has what was published at the hub, once; the other cluster has nothing"
    for stream, subject in zip((INBOX, ORDERS), OUTSIDE, strict=True):
        assert await subjects(clusters["us"], stream) == {}
        assert await subjects(clusters["eu"], stream) == {subject: 1}, "its own, not the hub's"


@pytest.mark.parametrize("away", [pytest.param("hub", marks=pytest.mark.full), "eu"])
async def test_a_mirror_goes_on_where_it_was_after_either_end_was_away(servers, clusters, away):
    await clusters["eu"].jetstream().publish(ALERT, b"1")
    await until(partial(subjects, clusters["hub"], mirror_of("eu")))
    servers[away].kill()
    if away == "hub":  # its cluster goes on without it
        await clusters["eu"].jetstream().publish(ALERT, b"2")
    servers[away].start()
    if away == "eu":
        await until(lambda: clusters["eu"].jetstream().publish(ALERT, b"2"))
    began_s = asyncio.get_running_loop().time()

    async def has_both():
        return (await subjects(clusters["hub"], mirror_of("eu"))).get(ALERT, 0) >= 2

    await until(has_both)
    print(f"the mirror went on {asyncio.get_running_loop().time() - began_s:.1f} s after {away} was back")
    log = clusters["hub"].jetstream()
    assert [(await log.get_msg(mirror_of("eu"), number)).data for number in (1, 2)] == [b"1", b"2"], (
        "none lost or twice"
    )
    assert (await log.stream_info(mirror_of("eu"))).state.messages == 2
