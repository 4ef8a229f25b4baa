"""The checks of the message bus and the object store."""

import asyncio
import contextlib
from typing import Any

import nats
from nats.js.api import StorageType, StreamInfo

from clients.cli.doctor.findings import Finding, failure, ok, warning
from clients.cli.doctor.space import assess_bus, assess_consumers
from shared.errors import SlipwayError
from shared.messaging import topology
from shared.messaging.credentials import connect
from shared.runtime.settings import Connection
from shared.storage.blobs import Store
from shared.storage.object_lock import NO_LOCK


def ask_s3(connection: Connection) -> Finding:
    """Return the finding on a store: whether a create-only put creates once, and whether objects can be locked."""
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


def ask_bus(connection: Connection) -> list[Finding]:
    """Return the findings on a bus: its streams and buckets, the space of each, and its consumers."""
    try:
        infos, allowed = asyncio.run(_read(connection))
    except ValueError as error:
        return [failure("nats", str(error), "see docs/security.md")]
    except (OSError, TimeoutError, nats.errors.Error) as error:
        advice = "start it, or set SLIPWAY_NATS_URL to where it is"
        return [failure("nats", f"{connection.nats_url} does not answer ({type(error).__name__})", advice)]
    stored = [info for info in infos if info.config.storage == StorageType.FILE]
    taken = {str(info.config.name): (info.state.bytes, info.config.max_bytes or -1) for info in stored}
    used = {str(info.config.name): (info.state.consumer_count, topology.consumer_limit(info.config)) for info in infos}
    own = {*(str(stream.name) for stream in topology.streams()), *(f"KV_{name}" for name in topology.BUCKETS)}
    streams = ok("nats", f"{connection.nats_url} answers, with JetStream and {len(infos)} streams")
    if missing := sorted(own - used.keys()):
        lacking = f"{connection.nats_url} lacks the streams and buckets {', '.join(missing)}"
        streams = failure("nats", lacking, "run `python -m shared.messaging.provision`")
    return [streams, assess_bus(taken, allowed, connection.nats_url), assess_consumers(used)]


async def _read(connection: Connection) -> tuple[list[StreamInfo], int | None]:
    """Return the streams of a bus, and the storage limit of its account in bytes; None without a limit."""

    async def ignore(_error: Exception) -> None:
        """Do nothing: a failed attempt is the answer."""

    # Tried once: with no or more tries nats-py tries for minutes.
    once: dict[str, Any] = {"allow_reconnect": False, "max_reconnect_attempts": 1, "reconnect_time_wait": 0.1}
    client = await connect(connection, error_cb=ignore, connect_timeout=2, **once)
    try:
        js = client.jetstream(timeout=5)
        infos, allowed = await js.streams_info(), None
        with contextlib.suppress(TimeoutError, nats.errors.Error):  # only administrators may ask
            allowed = (await js.account_info()).limits.max_storage
    finally:
        await client.close()
    return infos, allowed if allowed is not None and allowed > 0 else None
