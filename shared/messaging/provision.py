"""Creates or updates streams, consumers and buckets; run once before the services start."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import structlog
from nats.js import JetStreamContext
from nats.js.api import KeyValueConfig
from nats.js.errors import APIError, BadRequestError, NotFoundError

from contracts.identities import PROVISIONER
from contracts.services import EVENTS
from shared.messaging import topology
from shared.messaging.credentials import connect, require_identity
from shared.runtime.settings import Connection

JOIN_S = 90.0
"""Time limit for the servers of a new cluster to join each other."""
_AGAIN_S = 0.5
_NOT_YET = (10005, 10008)
"""Server errors of a forming cluster: too few peers for all replicas, or no leader."""
_NAME_IN_USE = 10058
_REQUESTS_AT_ONCE = 16
_STORE_TOO_SMALL = (10023, 10047)
_DECLARED = ("subjects", "discard", "max_age", "duplicate_window", "allow_direct")
"""Settings of an existing stream that are set to the declaration in `shared.messaging.topology`."""
_GROWING = ("num_replicas", "max_msgs_per_subject")
"""Settings of an existing stream that are raised to the declaration, never lowered."""


async def provision(
    js: JetStreamContext,
    *,
    replicas: int = 1,
    dedupe_window_s: float | None = None,
    limits: Mapping[str, int] | None = None,
    event_days: float = topology.EVENT_DAYS,
) -> None:
    """Create and update streams, consumers and buckets as `shared.messaging.topology` declares them; idempotent.

    Existing streams keep their messages and undeclared settings. Replicas, history and size limits are never lowered.

    Args:
        js: The bus.
        replicas: Copies of each stream and bucket.
        dedupe_window_s: Duplicate window of streams, in seconds.
        limits: Bytes by stream name, over `topology.LIMITS`.
        event_days: Days that events are kept.

    Raises:
        RuntimeError: The server's file store is smaller than the limits of all streams and buckets.
    """
    window = topology.DEDUPE_WINDOW_S if dedupe_window_s is None else dedupe_window_s
    allowed = {**topology.LIMITS, **(limits or {})}
    try:
        declared = topology.streams(replicas=replicas, dedupe_window_s=window, limits=allowed, event_days=event_days)
        for stream in declared:
            await _ensure(js, str(stream.name), stream.as_dict(), partial(js.add_stream, stream))
        await _at_once([partial(js.add_consumer, name, consumer) for name, consumer in topology.consumers()])
        await _at_once(
            [partial(_ensure_bucket, js, bucket) for bucket in topology.buckets(replicas=replicas, limits=allowed)]
        )
    except APIError as error:
        if error.err_code not in _STORE_TOO_SMALL:
            raise
        raise RuntimeError(
            f"The file store of the bus is too small for its streams and buckets ({error.description}): they may take "
            f"{topology.file_bytes(allowed)} bytes. Set max_file_store in its configuration to at least that, on a "
            "disk that holds as much, or lower SLIPWAY_EVENTS_MAX_BYTES."
        ) from error


async def provision_when_joined(
    js: JetStreamContext,
    *,
    replicas: int,
    limits: Mapping[str, int] | None = None,
    event_days: float = topology.EVENT_DAYS,
    within_s: float = JOIN_S,
) -> None:
    """Provision once enough servers have joined the cluster for all replicas; arguments as in `provision`.

    Raises:
        APIError: The servers did not join within `within_s`, or the request is refused for another reason.
        RuntimeError: The server's file store is too small.
    """
    ends_s = asyncio.get_running_loop().time() + within_s
    while True:
        try:
            await provision(js, replicas=replicas, limits=limits, event_days=event_days)
        except APIError as error:
            if error.err_code not in _NOT_YET or asyncio.get_running_loop().time() > ends_s:
                raise
            await asyncio.sleep(_AGAIN_S)
        else:
            return


async def _at_once(requests: Sequence[Callable[[], Awaitable[object]]]) -> None:
    """Make requests in concurrent groups: in a cluster each new stream or consumer first elects a leader.

    A group is finished before its first failure is raised.
    """
    for first in range(0, len(requests), _REQUESTS_AT_ONCE):
        some = (request() for request in requests[first : first + _REQUESTS_AT_ONCE])
        for result in await asyncio.gather(*some, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result


async def _ensure_bucket(js: JetStreamContext, bucket: KeyValueConfig) -> None:
    declared = {
        "num_replicas": bucket.replicas,
        "max_msgs_per_subject": bucket.history,
        "max_bytes": bucket.max_bytes,
        "max_age": int((bucket.ttl or 0.0) * 1e9),
        "allow_direct": bucket.direct,
    }
    await _ensure(js, f"KV_{bucket.bucket}", declared, partial(js.create_key_value, bucket))


async def _ensure(
    js: JetStreamContext, name: str, declared: Mapping[str, Any], create: Callable[[], Awaitable[object]]
) -> None:
    """Create a stream, or update it.

    An existing stream is read first: creating it again is refused if its size does not fit into the store twice. It is
    read raw, because the client would drop, and so reset, unknown settings.
    """
    request = js._api_request  # noqa: SLF001 - raw
    try:
        info = await request(f"$JS.API.STREAM.INFO.{name}")
    except NotFoundError:
        try:
            await create()
        except BadRequestError as error:
            if error.err_code != _NAME_IN_USE:
                raise
            info = await request(f"$JS.API.STREAM.INFO.{name}")  # created by another provisioner at this moment
        else:
            return
    settings = merge(info["config"], declared, used_bytes=info["state"]["bytes"])
    if settings != info["config"]:
        await request(f"$JS.API.STREAM.UPDATE.{name}", json.dumps(settings).encode(), timeout=30)


def merge(live: Mapping[str, Any], declared: Mapping[str, Any], *, used_bytes: int) -> dict[str, Any]:
    """Return a stream's settings after provisioning.

    A stream without a limit of size gets one, unless it holds more than that already.
    """
    settings = {**live, **{key: declared[key] for key in _DECLARED if key in declared}}
    for key in _GROWING:
        if declared.get(key) is not None and live.get(key, -1) != -1:
            settings[key] = max(live[key], declared[key])
    if declared.get("max_msg_size", -1) > 0:
        settings["max_msg_size"] = declared["max_msg_size"]
    limit = declared["max_bytes"]
    if used_bytes >= limit and live["max_bytes"] < limit:
        structlog.get_logger().error(
            "a stream holds more than its limit, which is not set", stream=live["name"], bytes=used_bytes, limit=limit
        )
    else:
        settings["max_bytes"] = max(live["max_bytes"], limit)
    return settings


def settings_of(connection: Connection) -> dict[str, Any]:
    """Return the installation's own settings of `provision`: `replicas`, `limits` and `event_days`."""
    limits = {} if connection.events_max_bytes is None else {EVENTS: connection.events_max_bytes}
    return {"replicas": connection.replicas, "limits": limits, "event_days": connection.events_max_days}


async def _main() -> None:
    connection = require_identity(Connection(), PROVISIONER)
    client = await connect(connection, PROVISIONER)
    try:
        await provision(client.jetstream(timeout=30), **settings_of(connection))
    finally:
        await client.close()


if __name__ == "__main__":
    asyncio.run(_main())
