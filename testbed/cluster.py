"""Three real NATS servers as one cluster: leaders are found, stepped down, killed, and cut off from the others.

Clients reach each server directly. Servers reach each other through relays, one for each direction of a pair, so that
one server can be cut off from the others while its clients stay connected to it.
"""

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.js import JetStreamContext

from deploy.identity import bus_config
from deploy.identity.key_folder import KeyFolder
from deploy.local.bus import SIZES
from shared.messaging import credentials
from shared.messaging.isolation import Isolation
from shared.messaging.provision import provision
from shared.runtime.settings import Connection
from testbed.ports import free_port
from testbed.relay import Relay, relaying
from testbed.servers import HARNESS, NatsServer

SIZE = max(SIZES)
ELECTION_S = 40.0
"""Within which a stream has a leader again. A server waits 4 to 9 s for the old one, and a machine may be busy."""
_NO_ADDRESS = "127.0.0.1:1"
"""What a server tells the others to reach it at: they use the relays that they are configured with."""

_SILENT_NS = 3_000_000_000
"""A copy that its leader has not heard from for so long is not up to date; servers report every second."""
_NOT_YET = (10005, 10008)
"""Errors of the server: it has no peers for a copy yet, or no leader."""

_watching: set[asyncio.Task[None]] = set()


class Member(NatsServer):
    """One server of a cluster."""

    def __init__(self, folder: Path, number: int, first: "Member | None") -> None:
        self.name = f"nats-{number}"
        self.number = number
        super().__init__(folder, first.keys if first else None, first.harness if first else None)
        self.route_port = free_port()

    def join(self, routes: list[int], *, synced: bool) -> None:
        """Write the configuration with the ports at which the others are reached."""
        config = self.folder / "nats.conf"
        text = config.read_text()
        if synced:
            text = text.replace("jetstream {", "jetstream { sync_interval: always,")
        config.write_text(
            f"server_name: {self.name}\nmax_payload: 8MB\n{text}"
            + bus_config.cluster(
                f"127.0.0.1:{self.route_port}",
                [f"127.0.0.1:{port}" for port in routes],
                self.keys,
                advertised=_NO_ADDRESS,
            )
        )


class Cluster:
    """The servers, and what is done to them; where one server is asked for, this stands for all of them."""

    def __init__(self, members: list[Member], relays: dict[tuple[int, int], Relay]) -> None:
        self.members = members
        self._relays = relays

    @property
    def keys(self) -> KeyFolder:
        """The keys that all servers accept."""
        return self.members[0].keys

    @property
    def url(self) -> str:
        """The addresses of all servers, as settings name them."""
        return ",".join(member.url for member in self.members)

    def settings(self, identity: str = HARNESS) -> Connection:
        """Return the settings of an identity; those of the tests' own work for everything."""
        return self.members[0].settings(identity).model_copy(update={"nats_url": self.url})

    async def connect(self, identity: str = HARNESS, **options: Any) -> Client:
        """Connect to one of the servers, and to another one where it is lost or cut off, as services do."""
        given = {"max_reconnect_attempts": -1, "reconnect_time_wait": 0.2, "error_cb": ignore, **options}
        client = await credentials.connect(self.settings(identity), **given)
        watch_isolation(client)
        return client

    # -- which server leads -------------------------------------------------------------------------------------------

    async def leader(self, stream: str, *, other_than: Member | None = None) -> Member:
        """Return the server that leads a stream, once there is one that the others know."""
        names = {member.name: member for member in self.members}
        async with asyncio.timeout(ELECTION_S), self._asking(other_than) as js:
            while True:
                with contextlib.suppress(nats.errors.Error):
                    leader = names.get(await leader_of(js, stream))
                    if leader is not None and leader is not other_than and is_alive(leader):
                        return leader
                await asyncio.sleep(0.05)

    async def settled(self) -> None:
        """Wait until each stream has a leader and all its copies are up to date."""
        async with asyncio.timeout(2 * ELECTION_S), self._asking(None) as js:
            while True:
                with contextlib.suppress(nats.errors.Error):
                    clusters = [info.cluster for info in await js.streams_info()]
                    if clusters and all(each and each.leader and _is_current(each) for each in clusters):
                        return
                await asyncio.sleep(0.1)

    @contextlib.asynccontextmanager
    async def _asking(self, absent: Member | None) -> AsyncIterator[JetStreamContext]:
        """Connect for questions, to servers that are there."""
        urls = [member.url for member in self.members if member is not absent and is_alive(member)]
        settings = self.settings().model_copy(update={"nats_url": ",".join(urls)})
        client = await credentials.connect(settings, error_cb=ignore)
        try:
            yield client.jetstream(timeout=1.0)
        finally:
            await client.close()

    # -- what is done to them -----------------------------------------------------------------------------------------

    async def step_down(self, stream: str) -> Member:
        """Let the leader of a stream give up, and return the server that leads it now."""
        before = await self.leader(stream)
        async with self._asking(None) as js:
            await step_down(js, stream)
        return before

    async def kill_leader(self, stream: str) -> Member:
        """Kill -9 the server that leads a stream; return it."""
        leader = await self.leader(stream)
        await asyncio.to_thread(leader.kill)
        return leader

    async def restart(self, member: Member) -> None:
        """Start a killed server again, and wait until all copies are up to date."""
        member.start()  # in this thread: a server ends with the thread that started it, one of a loop with its loop
        await self.settled()

    def cut_off(self, member: Member) -> None:
        """Cut the connections between a server and the others; its clients stay connected to it."""
        for relay in self._relays_of(member):
            relay.cut()

    def rejoin(self, member: Member) -> None:
        """Let a server and the others connect again."""
        for relay in self._relays_of(member):
            relay.reconnect()

    def _relays_of(self, member: Member) -> list[Relay]:
        return [relay for ends, relay in self._relays.items() if member.number in ends]


async def leader_of(js: JetStreamContext, stream: str) -> str:
    """Return the name of the server that leads a stream; nothing while there is none."""
    cluster = (await js.stream_info(stream)).cluster
    return (cluster.leader if cluster else None) or ""


async def step_down(js: JetStreamContext, stream: str) -> None:
    """Let the leader of a stream give up."""
    request = f"$JS.API.STREAM.LEADER.STEPDOWN.{stream}"
    answer = await js._nc.request(request, b"", timeout=5)  # noqa: SLF001 - nats-py has no method for it
    assert json.loads(answer.data).get("success"), answer.data


def watch_isolation(client: Client) -> None:
    """Let a client leave a server that is cut off, as services do, until it is closed."""
    isolation = Isolation(client, partial(client.jetstream(timeout=2.0).stream_info, "KV_routes"))
    task = asyncio.create_task(isolation.watch())
    _watching.add(task)
    task.add_done_callback(_watching.discard)


def is_alive(member: Member) -> bool:
    """Return whether the process of a server runs."""
    return member.process is not None and member.process.poll() is None


def _is_current(cluster: Any) -> bool:
    replicas = cluster.replicas or []
    contacted = all(each.current and not each.offline and (each.active or 0) < _SILENT_NS for each in replicas)
    return len(replicas) == SIZE - 1 and contacted


async def ignore(_error: Exception) -> None:
    """Drop the error of a server that is down: another one is asked."""


@contextlib.contextmanager
def running_cluster(folder: Path, *, synced: bool = False) -> Iterator[Cluster]:
    """Run a cluster of three servers; `synced` ones have each message on disk before it is acknowledged."""
    members: list[Member] = []
    for number in range(SIZE):
        members.append(Member(folder, number, members[0] if members else None))
    with contextlib.ExitStack() as stack:
        pairs = [(near.number, far.number) for near in members for far in members if near is not far]
        relays = {(near, far): stack.enter_context(relaying(members[far].route_port)) for near, far in pairs}
        for member in members:
            ports = [relay.port for (near, _), relay in relays.items() if near == member.number]
            member.join(ports, synced=synced)
        try:
            for member in members:
                member.start()
            yield Cluster(members, relays)
        finally:
            for member in members:
                member.discard()
            for member in members:
                shutil.rmtree(member.folder, ignore_errors=True)


async def provisioned(client: Client, **options: Any) -> JetStreamContext:
    """Return a JetStream context of a bus with all streams, of which each server has a copy.

    Until all servers know each other, which takes seconds, none of them takes a stream.
    """
    js = client.jetstream(timeout=30)
    async with asyncio.timeout(ELECTION_S):
        while True:
            try:
                await client.jetstream(timeout=1).account_info()
                await provision(js, replicas=SIZE, **options)
            except nats.errors.TimeoutError:
                continue
            except nats.js.errors.APIError as error:
                if error.err_code not in _NOT_YET:
                    raise
                await asyncio.sleep(0.1)
            else:
                return js
