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
from contracts.services import EVENTS, INBOX, ORDERS
from shared.messaging import topology
from shared.messaging.credentials import connect, require_identity
from shared.runtime.settings import Connection

JOIN_S = 90.0
"""How long the servers of a new cluster may take to know each other: seconds on a quiet machine."""
_AGAIN_S = 0.5
_NOT_YET = (10005, 10008)
"""Errors of the server: it knows too few others for all copies yet, or no leader."""
_NAME_IN_USE = 10058
_REQUESTS_AT_ONCE = 16
_STORE_TOO_SMALL = (10023, 10047)
_DECLARED = ("subjects", "discard", "max_age", "duplicate_window", "allow_direct")
"""Settings of an existing stream that become what `shared.messaging.topology` declares."""
_GROWING = ("num_replicas", "max_msgs_per_subject")
"""Settings of an existing stream that are raised to what is declared, and never lowered."""


async def provision(
    js: JetStreamContext,
    *,
    replicas: int = 1,
    dedupe_window_s: float | None = None,
    limits: Mapping[str, int] | None = None,
    event_days: float = topology.EVENT_DAYS,
) -> None:
    """Make the bus look like `shared.messaging.topology` declares; safe to run again at any time.

    What exists keeps its messages, and every setting that nothing here declares. Replicas, history and limits of size
    are raised where more is declared, never lowered.

    Args:
        js: The bus.
        replicas: Copies of each stream and bucket.
        dedupe_window_s: How long a stream remembers message ids.
        limits: Bytes by stream name, where they differ from `topology.LIMITS`.
        event_days: How many days events are kept.

    Raises:
        RuntimeError: The server's file store is smaller than the limits of all streams and buckets.
    """
    window = topology.DEDUPE_WINDOW_S if dedupe_window_s is None else dedupe_window_s
    allowed = {**topology.LIMITS, **(limits or {})}
    inbox = await _live(js, INBOX)
    try:
        declared = topology.streams(replicas=replicas, dedupe_window_s=window, limits=allowed, event_days=event_days)
        for stream in declared:
            await _ensure(js, str(stream.name), stream.as_dict(), partial(js.add_stream, stream))
        await _at_once([partial(js.add_consumer, name, consumer) for name, consumer in topology.consumers()])
        await _at_once(
            [partial(_ensure_bucket, js, bucket) for bucket in topology.buckets(replicas=replicas, limits=allowed)]
        )
    except APIError as error:
        if inbox is not None and await _live(js, ORDERS) is None:
            # Orders were in the inbox, and have no stream now: without this a rollback could not be ordered.
            await js._api_request(f"$JS.API.STREAM.UPDATE.{INBOX}", json.dumps(inbox).encode(), timeout=30)  # noqa: SLF001
        if error.err_code not in _STORE_TOO_SMALL:
            raise
        msg = (
            f"The file store of the bus is too small for its streams and buckets ({error.description}): they may take "
            f"{topology.file_bytes(allowed)} bytes. Set max_file_store in its configuration to at least that, on a "
            "disk that holds as much, or lower SLIPWAY_EVENTS_MAX_BYTES."
        )
        raise RuntimeError(msg) from error


async def provision_when_joined(
    js: JetStreamContext,
    *,
    replicas: int,
    limits: Mapping[str, int] | None = None,
    event_days: float = topology.EVENT_DAYS,
    within_s: float = JOIN_S,
) -> None:
    """Provision, once enough servers have joined the cluster for all copies; for the arguments see `provision`.

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
    """Make requests, some of them at once: in a cluster the servers of each thing that is made choose a leader first.

    What was begun is finished before the first failure is raised.
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


async def _live(js: JetStreamContext, name: str) -> dict[str, Any] | None:
    """Return the settings of a stream as the server has them; None if it does not exist."""
    try:
        info = await js._api_request(f"$JS.API.STREAM.INFO.{name}")  # noqa: SLF001 - see `_ensure`
    except NotFoundError:
        return None
    config: dict[str, Any] = info["config"]
    return config


async def _ensure(
    js: JetStreamContext, name: str, declared: Mapping[str, Any], create: Callable[[], Awaitable[object]]
) -> None:
    """Create a stream, or update it.

    The server is asked first what is there: creating a stream again, exactly as it is, is refused where its size does
    not fit into the store a second time. And it is asked raw, because the client drops settings that it does not know,
    which would reset them.
    """
    request = js._api_request  # noqa: SLF001 - see above
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
