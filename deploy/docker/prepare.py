"""Prepare the bus and the store before the services start; idempotent: `python -m deploy.docker.prepare`."""

import asyncio
import sys

import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext

from contracts.identities import PROVISIONER
from deploy.data_format import DATA_FORMAT, refuse
from shared.errors import SlipwayError, Transient
from shared.messaging import topology
from shared.messaging.credentials import connect, require_identity
from shared.messaging.patience import NO_LEADER, ask_again
from shared.messaging.provision import JOIN_S, provision_when_joined, settings_of
from shared.runtime.settings import Connection
from shared.storage.blobs import Store
from shared.storage.object_lock import NO_LOCK
from shared.storage.objects import AlreadyExists

FORMAT_KEY = "data-format"
"""Object of the store with the `DATA_FORMAT` of its data."""

LEADER_S = JOIN_S
"""Time limit of the first election in a new cluster."""


class ForeignData(Exception):  # noqa: N818 - the sentence is the point
    """Bus or store hold data of another format."""


async def prepare(connection: Connection) -> None:
    """Create streams, consumers, KV buckets and the store's bucket; check that the store honours create-only puts.

    An existing bucket without object lock is used, with a warning.

    Raises:
        ForeignData: bus or store hold data of another format; no stream was changed.
        SlipwayError: the store does not answer, or ignores create-only puts.
    """
    store = Store(connection)
    await asyncio.to_thread(store.ensure_bucket)
    await asyncio.to_thread(store.check_create_only)
    if not await asyncio.to_thread(store.has_lock):
        print(f"prepare: {NO_LOCK.format(bucket=store.bucket)}", file=sys.stderr)  # noqa: T201 - a command
    client = await connect(connection, PROVISIONER)
    try:
        await _await_leader(client)
        js = client.jetstream(timeout=30)
        await _check_format(store, js, connection)
        await provision_when_joined(js, **settings_of(connection))
    except (nats.errors.TimeoutError, *NO_LEADER) as error:
        raise Transient(
            "bus_unavailable",
            "The bus does not say which streams it has. Servers of a cluster do so once most of them reach each other: "
            "look at their logs, then start this again.",
        ) from error
    finally:
        await client.close()


async def _await_leader(client: Client) -> None:
    """Wait until the servers of the bus have a leader, after a new cluster has formed."""

    async def ask(limit_s: float) -> object:
        return await client.jetstream(timeout=limit_s).streams_info()

    await ask_again(ask, within_s=LEADER_S, without_leader_s=LEADER_S, soon_s=LEADER_S)


async def _check_format(store: Store, js: JetStreamContext, connection: Connection) -> None:
    """Refuse data of another format; record ours where there is no data yet."""
    recorded = await asyncio.to_thread(store.find, FORMAT_KEY)
    if recorded is None and await asyncio.to_thread(store.is_empty) and not await _holds_messages(js):
        try:
            await asyncio.to_thread(store.create, FORMAT_KEY, str(DATA_FORMAT).encode())
        except AlreadyExists:  # another run of this program was faster
            recorded = await asyncio.to_thread(store.find, FORMAT_KEY)
        else:
            return
    data_format = None if recorded is None else int(recorded) if recorded.isdigit() else 0
    where = f"bucket {connection.s3_bucket} at {connection.s3_endpoint} and the streams at {connection.nats_url} hold"
    advice = "start with empty ones (`docker compose down --volumes` deletes those of compose)"
    refusal = refuse(where, data_format, advice)
    if refusal is not None:
        raise ForeignData(refusal)


async def _holds_messages(js: JetStreamContext) -> bool:
    """Return whether a stream or bucket of Slipway holds a message."""
    names = {*(stream.name for stream in topology.streams()), *(f"KV_{bucket.bucket}" for bucket in topology.buckets())}
    return any(info.config.name in names and info.state.messages for info in await js.streams_info())


if __name__ == "__main__":
    try:
        asyncio.run(prepare(require_identity(Connection(), PROVISIONER)))
    except ForeignData as error:
        sys.exit(f"prepare: {error}")
    except SlipwayError as error:
        sys.exit(f"prepare: {error.sentence()}")
