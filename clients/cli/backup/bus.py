"""Snapshots of streams and buckets, with sequences and consumers, and their restore."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import ConsumerInfo
from nats.js.errors import NotFoundError

from clients.cli.backup.contents import STREAMS_IN_ORDER, Blob, Position, StreamCopy
from clients.cli.backup.folder import Folder
from clients.cli.output import CommandError
from contracts.vocabulary import digest_of
from shared.errors import Transient
from shared.storage.transfer import PART_BYTES

ANSWER_S = 30.0
SILENT_S = 30.0
"""Maximum pause of a snapshot in seconds."""
PIECE_BYTES = 256 * 1024
"""Bytes of a restored snapshot in each message."""
_PENDING_BYTES = 1024 * 1024 * 1024


async def read_positions(js: JetStreamContext) -> tuple[Position, ...]:
    """Return the last acknowledged sequence of each durable consumer."""
    positions = []
    for stream in STREAMS_IN_ORDER:
        if not stream.startswith("KV_"):
            positions += [
                Position(
                    stream=stream,
                    consumer=info.name,
                    acknowledged=(info.ack_floor.stream_seq or 0) if info.ack_floor is not None else 0,
                )
                for info in await _consumers(js, stream)
                if info.config.durable_name
            ]
    return tuple(positions)


async def _consumers(js: JetStreamContext, stream: str) -> list[ConsumerInfo]:
    infos: list[ConsumerInfo] = []
    while True:
        page = await js.consumers_info(stream, offset=len(infos))
        infos += page
        if not page:
            return infos


async def copy_stream(client: Client, name: str, folder: Folder) -> StreamCopy:
    """Copy a stream.

    Raises:
        Transient: `bus_unavailable`: the snapshot stopped.
        CommandError: the stream does not exist.
    """
    js = client.jetstream(timeout=ANSWER_S)
    request = js._api_request  # noqa: SLF001 - the client drops settings that it does not know
    try:
        info = await request(f"$JS.API.STREAM.INFO.{name}")
    except NotFoundError as error:
        raise CommandError(f"the bus has no stream {name}; run `python -m shared.messaging.provision`") from error
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox, pending_msgs_limit=-1, pending_bytes_limit=_PENDING_BYTES)
    try:
        body = json.dumps({"deliver_subject": inbox, "no_consumers": False, "chunk_size": PIECE_BYTES}).encode()
        snapshot = await request(f"$JS.API.STREAM.SNAPSHOT.{name}", body)
        chunks = [chunk async for chunk in _kept(folder, _pieces(client, subscription.next_msg, name))]
    finally:
        with contextlib.suppress(nats.errors.Error):
            await subscription.unsubscribe()
    return StreamCopy(name=name, config=info["config"], state=snapshot["state"], chunks=tuple(chunks))


async def _pieces(client: Client, next_message: Any, name: str) -> AsyncIterator[bytes]:
    """Yield the pieces of a snapshot, acknowledging each, until the server marks the end."""
    while True:
        try:
            message: Msg = await next_message(SILENT_S)
        except (TimeoutError, nats.errors.Error) as error:
            raise Transient("bus_unavailable", f"The snapshot of {name} stopped: {error!r}.") from error
        if not message.data:
            status = (message.headers or {}).get("Status", "204")
            if status not in ("", "204"):
                raise Transient("bus_unavailable", f"The snapshot of {name} ended with status {status}.")
            return
        yield message.data
        if message.reply:
            await client.publish(message.reply, b"")


async def _kept(folder: Folder, pieces: AsyncIterator[bytes]) -> AsyncIterator[Blob]:
    """Store pieces together in parts of `PART_BYTES`; yield each part."""
    held = bytearray()
    async for piece in pieces:
        held += piece
        if len(held) >= PART_BYTES:
            yield await asyncio.to_thread(keep, folder, bytes(held))
            held.clear()
    if held:
        yield await asyncio.to_thread(keep, folder, bytes(held))


def keep(folder: Folder, data: bytes) -> Blob:
    """Store bytes in a backup; return their digest and size."""
    blob = Blob(digest=digest_of(data), size_bytes=len(data))
    folder.put(blob, parts_of(data))
    return blob


def parts_of(data: bytes) -> Iterator[memoryview]:
    """Yield bytes in parts of `PART_BYTES`."""
    view = memoryview(data)
    for start in range(0, len(data), PART_BYTES):
        yield view[start : start + PART_BYTES]


async def value_at(js: JetStreamContext, bucket: str, key: str, sequence: int) -> dict[str, Any]:
    """Return the value of a record at a sequence of its bucket; empty if it did not exist then."""
    subject, value, at = f"$KV.{bucket}.{key}", b"", 0
    while True:
        try:
            message = await js.get_msg(f"KV_{bucket}", at + 1, subject=subject, next=True)
        except NotFoundError:
            break
        at = message.seq or at + 1
        if at > sequence:
            break
        value = b"" if "KV-Operation" in (message.headers or {}) else message.data or b""
    record: dict[str, Any] = json.loads(value) if value else {}
    return record


async def keys_at(js: JetStreamContext, bucket: str, ending: str) -> list[str]:
    """Return the keys of a bucket with an ending."""
    prefix = f"$KV.{bucket}."
    state = (await js.stream_info(f"KV_{bucket}", subjects_filter=f"{prefix}>")).state
    keys = (subject.removeprefix(prefix) for subject in state.subjects or {})
    return [key for key in keys if key.endswith(ending)]


# -- restoring -------------------------------------------------------------------------------------------------------


async def find_contents(js: JetStreamContext) -> list[str]:
    """Return sentences on contents of a bus that prevent a restore: stored messages and active consumers."""
    contents = []
    for name in STREAMS_IN_ORDER:
        try:
            state = (await js.stream_info(name)).state
        except NotFoundError:
            continue
        if state.last_seq:
            what = f"bucket {name.removeprefix('KV_')}" if name.startswith("KV_") else f"stream {name}"
            contents.append(f"the {what} has {state.messages} messages up to sequence {state.last_seq}")
        reading = [info.name for info in await _consumers(js, name) if info.num_waiting]
        if reading:
            contents.append(f"a service reads from {name} ({reading[0]})")
    return contents


async def restore_stream(client: Client, copy: StreamCopy, folder: Folder) -> None:
    """Create an empty stream again from its copy, with sequences and consumers.

    Raises:
        CommandError: the server refuses the copy.
    """
    js = client.jetstream(timeout=ANSWER_S)
    request = js._api_request  # noqa: SLF001 - no public call
    with contextlib.suppress(NotFoundError):
        await js.delete_stream(copy.name)
    config = {**copy.config, "num_replicas": 1}  # provisioning raises it to what the installation has
    answer = await request(
        f"$JS.API.STREAM.RESTORE.{copy.name}", json.dumps({"config": config, "state": copy.state}).encode()
    )
    subject = answer["deliver_subject"]
    for chunk in copy.chunks:
        data = await asyncio.to_thread(b"".join, folder.read(chunk))
        for start in range(0, len(data), PIECE_BYTES):
            await _send(client, subject, data[start : start + PIECE_BYTES], copy.name)
    done = await _send(client, subject, b"", copy.name)
    restored = json.loads(done)["state"]
    if restored["last_seq"] < copy.state["last_seq"]:
        raise CommandError(f"{copy.name} was restored up to {restored['last_seq']} of {copy.state['last_seq']}")


async def _send(client: Client, subject: str, data: bytes, name: str) -> bytes:
    answer = await client.request(subject, data, timeout=ANSWER_S * 4)
    error = json.loads(answer.data).get("error") if answer.data.startswith(b"{") else None
    if error or answer.data.startswith(b"-ERR"):
        why = error.get("description") if error else answer.data.decode(errors="replace")
        raise CommandError(f"the bus refuses the copy of {name}: {why}; see its log")
    return answer.data


async def put_consumers_back(js: JetStreamContext, positions: tuple[Position, ...]) -> int:
    """Reset each durable consumer to its position in the backup; return the number of consumers.

    Messages that were acknowledged between the positions and the copies are delivered again: the copies of the records
    that they changed may be older.
    """
    known = {(each.stream, each.consumer): each.acknowledged for each in positions}
    count = 0
    for stream in STREAMS_IN_ORDER:
        for info in await _consumers(js, stream):
            if stream.startswith("KV_") or not info.config.durable_name:
                await js.delete_consumer(stream, info.name)  # of a command or a watch that ended long ago
                continue
            body = json.dumps({"seq": known.get((stream, info.name), 0) + 1}).encode()
            await js._api_request(f"$JS.API.CONSUMER.RESET.{stream}.{info.name}", body, timeout=ANSWER_S)  # noqa: SLF001 - no public call
            count += 1
    return count
