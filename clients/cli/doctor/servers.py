"""Asks the servers of a running stack."""

import asyncio
from typing import TYPE_CHECKING, Any

from clients.cli.doctor.copies import Stream, assess_copies, describe_copies
from clients.cli.doctor.findings import Finding, failure, ok, warning
from shared.errors import SlipwayError
from shared.messaging import topology
from shared.messaging.credentials import connect
from shared.runtime.settings import Connection
from shared.storage.blobs import Store
from shared.storage.object_lock import NO_LOCK

if TYPE_CHECKING:
    from nats.js.api import StreamInfo


def ask_s3(connection: Connection) -> Finding:
    """Prove on a running object store that a create-only put creates once, and ask whether objects can be locked."""
    store = Store(connection)
    try:
        store.check_create_only()
        locks = store.has_lock()
    except SlipwayError as error:
        return failure("s3", f"{connection.s3_endpoint}: {error.code}", error.reason)
    detail = f"{connection.s3_endpoint} answers; a create-only put creates once"
    if locks:
        return ok("s3", f"{detail}; the bucket has object lock")
    return warning("s3", detail, NO_LOCK.format(bucket=store.bucket))


def ask_nats(connection: Connection) -> Finding:
    """Ask a running message bus whether JetStream answers, and has the streams that the services use."""
    import nats

    try:
        present = asyncio.run(_streams(connection))
    except ValueError as error:
        return failure("nats", str(error), "see docs/security.md")
    except (OSError, TimeoutError, nats.errors.Error) as error:
        advice = "start it, or set SLIPWAY_NATS_URL to where it is"
        return failure("nats", f"{connection.nats_url} does not answer ({type(error).__name__})", advice)
    own = {*(str(stream.name) for stream in topology.streams()), *(f"KV_{name}" for name in topology.BUCKETS)}
    if missing := sorted(own - set(present)):
        advice = "run `python -m shared.messaging.provision`"
        return failure("nats", f"{connection.nats_url} lacks the streams and buckets {', '.join(missing)}", advice)
    ours = {name: stream for name, stream in present.items() if name in own}
    copies = describe_copies(ours)
    detail = f"{connection.nats_url} answers, with JetStream and {len(present)} streams{copies}"
    return assess_copies(ours) or ok("nats", detail)


def once() -> dict[str, Any]:
    """Return the options of a connection that is tried once: with no or more tries nats-py tries for minutes."""
    return {"allow_reconnect": False, "max_reconnect_attempts": 1, "reconnect_time_wait": 0.1, "connect_timeout": 2}


async def _streams(connection: Connection) -> dict[str, Stream]:
    async def ignore(_error: Exception) -> None:
        """A failed attempt is the answer; nothing needs to be written about it."""

    client = await connect(connection, error_cb=ignore, **once())
    try:
        infos = await client.jetstream(timeout=5).streams_info()
    finally:
        await client.close()
    return {str(info.config.name): _describe(info) for info in infos}


def _describe(info: "StreamInfo") -> Stream:
    cluster = info.cluster
    peers = (cluster.replicas if cluster else None) or []
    return Stream(
        copies=info.config.num_replicas or 1,
        in_cluster=bool(cluster and cluster.name),
        leader=(cluster.leader if cluster else None) or "",
        behind=tuple(str(peer.name) for peer in peers if peer.offline or not peer.current),
    )
