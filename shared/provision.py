"""Creates or updates streams, consumers and buckets; run once before the services start."""

import asyncio

import nats
from nats.js import JetStreamContext
from nats.js.errors import BadRequestError

from shared import topology
from shared.settings import Connection

_NAME_IN_USE = 10058


async def provision(js: JetStreamContext, *, replicas: int = 1, dedupe_window_s: float | None = None) -> None:
    """Make the bus look like `shared.topology` says; safe to run again at any time."""
    window = topology.DEDUPE_WINDOW_S if dedupe_window_s is None else dedupe_window_s
    for stream in topology.streams(replicas=replicas, dedupe_window_s=window):
        try:
            await js.add_stream(stream)
        except BadRequestError as error:
            if error.err_code != _NAME_IN_USE:
                raise
            await js.update_stream(stream)
    for name, consumer in topology.consumers():
        await js.add_consumer(name, consumer)
    for bucket in topology.buckets(replicas=replicas):
        try:
            await js.create_key_value(bucket)
        except BadRequestError as error:
            if error.err_code != _NAME_IN_USE:
                raise


async def _main() -> None:
    connection = Connection()
    client = await nats.connect(connection.nats_url)
    try:
        await provision(client.jetstream(timeout=30), replicas=connection.replicas)
    finally:
        await client.close()


if __name__ == "__main__":
    asyncio.run(_main())
