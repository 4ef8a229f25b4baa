"""Prepare the bus and the store before the services start; idempotent: `python -m deploy.docker.prepare`."""

import asyncio

import nats

from shared.messaging.provision import limits_of, provision
from shared.runtime.settings import Connection
from shared.storage.blobs import Store


async def prepare(connection: Connection) -> None:
    """Create streams, consumers, KV buckets and the store's bucket; check that the store honours create-only puts.

    Raises:
        SlipwayError: the store does not answer, or would let commits be overwritten.
    """
    store = Store(connection)
    await asyncio.to_thread(store.ensure_bucket)
    await asyncio.to_thread(store.check_create_only)
    client = await nats.connect(connection.nats_url)
    try:
        await provision(client.jetstream(timeout=30), replicas=connection.replicas, limits=limits_of(connection))
    finally:
        await client.close()


if __name__ == "__main__":
    asyncio.run(prepare(Connection()))
