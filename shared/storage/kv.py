"""Typed records in a key-value bucket: compare-and-set, and reports of every change."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

import nats.errors
import structlog
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError, NotFoundError
from nats.js.kv import KeyValue
from pydantic import BaseModel

from shared.errors import Transient
from shared.messaging.patience import ELECTION_S, ask_again
from shared.runtime.failpoints import failpoint
from shared.runtime.tasks import end_tasks
from shared.storage.record_format import dump, parse

M = TypeVar("M", bound=BaseModel)
OnChange = Callable[[str, M, int], Awaitable[None]]
OnSnapshot = Callable[["Snapshot"], Awaitable[None]]
_SAFETY_NET_S = 2.0
_WRITE_S = 10.0
_RETRY_S = 0.1
"""Pause after a first failure; doubles up to `_SAFETY_NET_S`."""
_KV_OPERATION = "KV-Operation"
"""The header of a deletion."""
_HEADER_BYTES = 512
"""Upper bound of a write's headers; above its limit a server closes the connection."""


class Conflict(Exception):  # noqa: N818 - it is an answer, not a failure: read again and decide again
    """Another writer wrote this record since it was read."""


@dataclass(frozen=True)
class Entry(Generic[M]):
    """A record and its revision."""

    value: M
    revision: int


@dataclass(frozen=True)
class Snapshot:
    """The contents of a bucket at one read of all its keys.

    Attributes:
        identity: creation time of the bucket, which tells it from a recreated one; None without a bucket.
        keys: the keys with a record.
    """

    identity: str | None
    keys: frozenset[str]


class Bucket(Generic[M]):
    """One key-value bucket holding records of one type as JSON."""

    def __init__(self, js: JetStreamContext, name: str, record: type[M], *, service: str = "") -> None:
        self._js = js
        self._name = name
        self._record = record
        self._service = service

    async def _bucket(self) -> KeyValue:
        """Return a handle of the bucket; raise NotFoundError if it does not exist."""
        return await self._js.key_value(self._name)

    @property
    def _known(self) -> KeyValue:
        """Return a handle without a check that the bucket exists, which would cost a request."""
        return KeyValue(self._name, f"KV_{self._name}", f"$KV.{self._name}.", self._js, direct=False)

    async def _get(self, key: str) -> KeyValue.Entry | None:
        """Return the entry of a key, or None; raise NotFoundError without a bucket."""
        try:
            return await self._known.get(key)
        except KeyNotFoundError:
            await self._bucket()
            return None

    async def get(self, key: str) -> Entry[M] | None:
        """Return a record, or None; raise Transient if it cannot be read (`record_format.parse`)."""
        entry = await self._get(key)
        if entry is None:
            return None
        return Entry(parse(self._record, entry.value or b"", f"{self._name}/{key}"), entry.revision or 0)

    async def history(self, key: str) -> list[M]:
        """Return the stored revisions of a record, oldest first; unreadable ones are left out."""
        subject, sequence = f"$KV.{self._name}.{key}", 0
        values: list[M] = []
        while True:
            try:
                message = await self._js.get_msg(f"KV_{self._name}", sequence + 1, subject=subject, next=True)
            except NotFoundError:
                return values
            sequence = message.seq or sequence + 1
            value = None if _KV_OPERATION in (message.headers or {}) else self.read(key, message.data or b"")
            values += [] if value is None else [value]

    async def create(self, key: str, value: M) -> int:
        """Write a record that must not exist yet; raise Conflict when it does."""
        return await self._written(key, dump(value), None)

    async def update(self, key: str, value: M, revision: int) -> int:
        """Write a record at `revision`; raise Conflict at another one.

        Without a bucket, raise NoStreamResponseError after `ELECTION_S`, as a bucket without a leader answers the same.
        """
        return await self._written(key, dump(value), revision)

    async def _written(self, key: str, data: bytes, revision: int | None) -> int:
        limit = self._js._nc.max_payload - _HEADER_BYTES  # noqa: SLF001 - nats-py leaves headers out, the server counts them
        if len(data) > limit:
            raise Transient(
                "too_large",
                f"The record {self._name}/{key} has {len(data):,} bytes; the limit of the bus is {limit:,}.",
            )
        lost = False

        async def write(limit_s: float) -> int:
            nonlocal lost
            try:
                async with asyncio.timeout(limit_s):
                    if revision is None:
                        await self._bucket()
                        return await self._known.create(key, data)
                    return await self._known.update(key, data, last=revision)
            except TimeoutError as error:
                lost = True
                raise nats.errors.TimeoutError from error

        try:
            written = await ask_again(write, within_s=_WRITE_S, without_leader_s=ELECTION_S)
        except KeyWrongLastSequenceError as error:
            own = await self._written_before(key, data, revision or 0) if lost else None
            if own is None:
                raise Conflict(key) from error
            written = own
        failpoint(f"{self._service}.after_cas", f"{self._name}/{key}")
        return written

    async def _written_before(self, key: str, data: bytes, revision: int) -> int | None:
        """Return the revision of a write with a lost answer; None if another writer was first."""
        try:
            message = await self._js.get_msg(
                f"KV_{self._name}", revision + 1, subject=f"$KV.{self._name}.{key}", next=True
            )
        except NotFoundError:
            return None
        return message.seq if message.data == data else None

    async def remove(self, key: str, revision: int) -> None:
        """Purge a record with its history, unless it was written after a revision.

        The identity needs the right to purge the bucket (`contracts.services`, `forgets`).
        """
        await self._js.purge_stream(f"KV_{self._name}", seq=revision + 1, subject=f"$KV.{self._name}.{key}")

    async def written_at(self, key: str) -> datetime | None:
        """Return the time of a record's last write by the bus's clock, or None."""
        try:
            message = await self._js.get_msg(f"KV_{self._name}", subject=f"$KV.{self._name}.{key}")
        except NotFoundError:
            return None
        return None if _KV_OPERATION in (message.headers or {}) else message.time

    async def keys(self) -> list[str]:
        """Return all keys, from the stream's subjects.

        nats-py's own listing leaves a consumer on the server for five minutes at every call.
        """
        prefix = f"$KV.{self._name}."
        state = (await self._js.stream_info(f"KV_{self._name}", subjects_filter=f"{prefix}>")).state
        return sorted(subject.removeprefix(prefix) for subject in state.subjects or {})

    async def all(self) -> dict[str, Entry[M]]:
        """Return all records."""
        entries = {key: await self.get(key) for key in await self.keys()}
        return {key: entry for key, entry in entries.items() if entry is not None}

    async def raw(self, key: str) -> tuple[int, bytes] | None:
        """Return revision and bytes of a record, or None."""
        entry = await self._get(key)
        return None if entry is None else (entry.revision or 0, entry.value or b"")

    async def identity(self) -> str | None:
        """Return the creation time of the bucket; None if it does not exist."""
        try:
            made = (await self._js.stream_info(f"KV_{self._name}")).created
        except NotFoundError:
            return None
        return made.isoformat() if made else ""

    async def follow(self, client: Client, on_change: OnChange[M], on_snapshot: OnSnapshot | None = None) -> None:
        """Call `on_change(key, value, revision)` for every record now and on every change, until cancelled.

        Revisions never decrease within one bucket. After it was recreated or restored, all its records are reported
        again. `on_snapshot` is called with its keys every 2 s.
        """
        await _Follower(self, client, on_change, on_snapshot).run()

    def read(self, key: str, value: bytes) -> M | None:
        """Return a record; None, with a line in the log, if it cannot be read."""
        try:
            return parse(self._record, value, f"{self._name}/{key}")
        except Transient as error:
            structlog.get_logger().error("unreadable record", bucket=self._name, key=key, error=str(error))
            return None

    async def watch(self) -> KeyValue.KeyWatcher:
        """Return a watcher of all records and their changes."""
        return await (await self._bucket()).watchall()


class _Follower(Generic[M]):
    """Reports every change of a bucket, from a watch and from regular reads of all keys.

    nats-py's watcher can be silent for many seconds after a kill of the server, and permanently after deletion of its
    bucket. So the watch is renewed at every reconnect, for a new bucket, and after a missed change.
    """

    def __init__(
        self, bucket: Bucket[M], client: Client, on_change: OnChange[M], on_snapshot: OnSnapshot | None
    ) -> None:
        self._bucket = bucket
        self._client = client
        self._on_change = on_change
        self._on_snapshot = on_snapshot
        self._reported: dict[str, tuple[int, bytes]] = {}
        self._identity: str | None = None
        self._again = asyncio.Event()
        self._at_once = asyncio.Event()
        self._watch_pause_s = _RETRY_S

    async def run(self) -> None:
        """Follow until cancelled."""
        reading = asyncio.create_task(self._keep_reading())
        on_reconnect(self._client, self._reconnected)
        try:
            while True:
                self._again.clear()
                with contextlib.suppress(nats.errors.Error, asyncio.TimeoutError):
                    await self._watch_once()
                await asyncio.sleep(_RETRY_S)
                await self._until_again(self._watch_pause_s - _RETRY_S)
                self._watch_pause_s = _doubled(self._watch_pause_s)
        finally:
            reading.cancel()

    def _reconnected(self) -> None:
        self._watch_pause_s = _RETRY_S
        self._again.set()
        self._at_once.set()

    async def _until_again(self, limit_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._again.wait()

    async def _watch_once(self) -> None:
        """Watch until the watch fails or must be renewed, also during its creation, in case the request is lost."""
        tasks = [asyncio.ensure_future(self._watch()), asyncio.ensure_future(self._again.wait())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await end_tasks(tasks, again_s=_RETRY_S)

    async def _watch(self) -> None:
        watcher = await self._bucket.watch()
        self._watch_pause_s = _RETRY_S
        try:
            async for entry in watcher:
                value, revision = (entry.value, entry.revision) if entry is not None else (None, None)
                if value and revision and revision > self._reported.get(entry.key, (0, b""))[0]:
                    await self._report(entry.key, revision, value)
        finally:
            await watcher.stop()  # type: ignore[no-untyped-call]  # nats-py leaves it untyped

    async def _keep_reading(self) -> None:
        """Read all every `_SAFETY_NET_S`, sooner after a failure; restart a read at a reconnect."""
        wait_s, retry_s = _SAFETY_NET_S, _RETRY_S
        while True:
            self._at_once.clear()
            reading = asyncio.ensure_future(self._read_after(wait_s))
            reconnected = asyncio.ensure_future(self._at_once.wait())
            try:
                await asyncio.wait((reading, reconnected), return_when=asyncio.FIRST_COMPLETED)
            finally:
                reading.cancel()
                reconnected.cancel()
            if self._at_once.is_set():
                wait_s, retry_s = _RETRY_S, _RETRY_S
            elif reading.cancelled() or reading.result():  # a callback may be cancelled
                wait_s, retry_s = _SAFETY_NET_S, _RETRY_S
            else:  # what was reported stays, and is compared as soon as the bus answers
                wait_s, retry_s = retry_s, _doubled(retry_s)

    async def _read_after(self, wait_s: float) -> bool:
        """Wait, then read all records; return False if the bus did not answer."""
        await asyncio.sleep(wait_s)
        try:
            await self._read_all()
        except (nats.errors.Error, TimeoutError):
            return False
        except Exception:  # noqa: BLE001 - a follower that stops reading would never learn of a restored bucket
            structlog.get_logger().exception("reading a bucket failed")
        return True

    async def _read_all(self) -> None:
        """Report each record that differs from its last report, unless the watch reported it in the meantime."""
        identity = await self._bucket.identity()
        if identity is not None and identity != self._identity:
            if self._identity is not None:
                self._again.set()
            self._identity = identity
        present = set()
        for key in [] if identity is None else await self._bucket.keys():
            before = self._reported.get(key)
            now = await self._bucket.raw(key)
            if now is None or not now[1]:
                continue
            present.add(key)
            if now != before and self._reported.get(key) == before:
                if before is None or now[0] > before[0]:
                    self._again.set()  # the watch should have reported it
                await self._report(key, *now)
        if self._on_snapshot is not None:
            await self._on_snapshot(Snapshot(identity, frozenset(present)))

    async def _report(self, key: str, revision: int, value: bytes) -> None:
        self._reported[key] = (revision, value)
        record = self._bucket.read(key, value)
        if record is None:
            return
        try:
            await self._on_change(key, record, revision)
        except BaseException:
            self._reported.pop(key, None)  # the next read reports it again
            raise


def _doubled(pause_s: float) -> float:
    return min(2 * pause_s, _SAFETY_NET_S)


def on_reconnect(client: Client, callback: Callable[[], None]) -> None:
    """Call `callback` after every reconnect of a NATS client, before its existing callback."""
    earlier = client._reconnected_cb  # noqa: SLF001 - nats-py offers no way to add a second callback

    async def both() -> None:
        callback()
        if earlier is not None:
            await earlier()

    client._reconnected_cb = both  # noqa: SLF001 - there is no way to add a callback later
