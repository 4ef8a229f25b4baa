"""Disconnects from a NATS server that is cut off from its cluster: clients stay connected, but nothing gets through.

The leader of a stream or consumer answers requests about it also while isolated, with the time since it last heard from
its peers. Any other server forwards the request, and no answer comes.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

import nats.errors
import structlog
from nats.aio.client import Client, Server
from nats.js import JetStreamContext
from nats.js.api import ClusterInfo, ConsumerInfo, StreamInfo
from nats.js.errors import NotFoundError

from contracts.services import ServiceContract, durable_name, stream_of

EVERY_S: Final = 2.0
"""Interval of requests."""
SILENT_S: Final = 12.0
"""Silence after which a server is left; an election takes up to 9 s."""
_UNHEARD_NS: Final = 5_000_000_000
"""Silence of all peers that shows isolation; they report every second."""
_OTHERS_FIRST: Final = 3
"""Tries of each other server before the one that was left."""
_AGAIN_S: Final = 1.0
"""Pause before a further try of a server."""

Question = Callable[[], Awaitable[StreamInfo | ConsumerInfo]]
"""Requests information about a replicated stream or consumer."""


def question(js: JetStreamContext, service: ServiceContract) -> Question:
    """Return a request that a service is permitted: about one of its buckets, else about its first consumer.

    Args:
        js: Sets the time limit of the answer.
        service: The service; it uses a bucket or consumes a fact.
    """
    if buckets := (*service.owns, *service.edits, *service.reads_records):
        return partial(js.stream_info, f"KV_{buckets[0]}")
    fact, environment = service.reads[0]
    return partial(js.consumer_info, str(stream_of(fact)), durable_name(service.name, fact, environment))


def is_cut_off(cluster: ClusterInfo | None, own: str) -> bool | None:
    """Return whether an answer shows that the connected server is isolated; None if it has no leader.

    Args:
        cluster: Leader and replicas of the stream or consumer, from the answer.
        own: Name of the connected server.
    """
    if cluster is None or not cluster.name:
        return False
    if not cluster.leader:
        return None
    peers = cluster.replicas or []
    if cluster.leader != own or not peers:
        return False
    return all(bool(peer.offline) or (peer.active or 0) > _UNHEARD_NS for peer in peers)


def _log(sentence: str) -> None:
    structlog.get_logger().warning(sentence)


class Isolation:
    """Detects that the server of a connection is isolated, and connects to another server."""

    def __init__(self, client: Client, ask: Question, report: Callable[[str], None] | None = None) -> None:
        """Watch the server of a connection.

        Args:
            client: The connection; servers outside of a cluster are ignored.
            ask: Requests replicated information (`question`).
            report: Called with a sentence when a server is left; by default it is logged.
        """
        self._client = client
        self._report = report or _log
        self._ask = ask
        self._tries: Counter[str] = Counter()

    async def watch(self) -> None:
        """Ask until the connection is closed."""
        clock = asyncio.get_running_loop().time
        heard_s = clock()
        while not self._client.is_closed:
            await asyncio.sleep(EVERY_S)
            own = self._client._server_info  # noqa: SLF001 - nats-py has no public name for it
            if not self._client.is_connected or not own.get("cluster"):
                heard_s = clock()
                continue
            cut_off = await self._assess(str(own.get("server_name")))
            if cut_off is False:
                heard_s = clock()
                self._tries.clear()
                self._client._reconnect_to_server_handler = None  # noqa: SLF001 - any server will do again
            elif cut_off or clock() - heard_s > SILENT_S:
                server = own.get("server_name")
                self._report(f"the server {server} reaches no other one of its cluster; another one is used")
                await self._leave()
                heard_s = clock()

    async def _assess(self, own: str) -> bool | None:
        try:
            return is_cut_off((await self._ask()).cluster, own)
        except NotFoundError:
            return False  # what is asked about is not provisioned yet: only a server that leads the others says so
        except (nats.errors.Error, TimeoutError):
            return None

    async def _leave(self) -> None:
        server = self._client.connected_url
        if server is not None:  # what counts against other addresses stays: they may be those of the same server
            self._tries[server.netloc] += _OTHERS_FIRST
        self._client._reconnect_to_server_handler = self._choose  # noqa: SLF001 - it is an option of `connect` only
        await self._client.force_reconnect()

    def _choose(self, servers: Sequence[Server], _info: dict[str, Any]) -> tuple[Server, float]:
        """Return the next server and the delay before connecting; the isolated server comes last."""
        server = min(
            random.sample(servers, len(servers)), key=lambda known_server: self._tries[known_server.uri.netloc]
        )
        tries = self._tries[server.uri.netloc]
        self._tries[server.uri.netloc] += 1
        return server, _AGAIN_S if tries else 0.0
