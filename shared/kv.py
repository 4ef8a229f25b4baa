"""Typed records in a key-value bucket: compare-and-set, and a watch that never misses a change."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import nats.errors
import structlog
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError
from nats.js.kv import KeyValue
from pydantic import BaseModel, ValidationError

from shared.errors import Transient
from shared.failpoints import failpoint

M = TypeVar("M", bound=BaseModel)
OnChange = Callable[[str, M, int], Awaitable[None]]
_SAFETY_NET_S = 2.0
_RETRY_S = 0.1
EDIT_ATTEMPTS = 50
"""How often an edit decides again because another writer was first, before it gives up."""


class Conflict(Exception):  # noqa: N818 - it is an answer, not a failure: read again and decide again
    """Somebody else wrote this record since it was read."""


@dataclass(frozen=True)
class Entry(Generic[M]):
    """A record and the revision that it was read at."""

    value: M
    revision: int


class Bucket(Generic[M]):
    """One key-value bucket holding records of one type as JSON."""

    def __init__(self, js: JetStreamContext, name: str, record: type[M], *, service: str = "") -> None:
        self._js = js
        self._name = name
        self._record = record
        self._service = service

    async def _bucket(self) -> KeyValue:
        return await self._js.key_value(self._name)

    async def get(self, key: str) -> Entry[M] | None:
        """Read a record; None when there is none."""
        try:
            entry = await (await self._bucket()).get(key)
        except KeyNotFoundError:
            return None
        return self._parsed(entry.value, entry.revision)

    def _parsed(self, value: bytes | None, revision: int | None) -> Entry[M]:
        return Entry(self._record.model_validate_json(value or b"{}"), revision or 0)

    async def create(self, key: str, value: M) -> int:
        """Write a record that must not exist yet; raise Conflict when it does."""
        try:
            revision = await (await self._bucket()).create(key, _dump(value))
        except KeyWrongLastSequenceError as error:
            raise Conflict(key) from error
        failpoint(f"{self._service}.after_cas")
        return revision

    async def update(self, key: str, value: M, revision: int) -> int:
        """Write a record that must still be at `revision`; raise Conflict when it is not."""
        try:
            written = await (await self._bucket()).update(key, _dump(value), last=revision)
        except KeyWrongLastSequenceError as error:
            raise Conflict(key) from error
        failpoint(f"{self._service}.after_cas")
        return written

    async def keys(self) -> list[str]:
        """List all keys.

        Asked of the stream itself: the client's own listing makes a consumer on the server at every call, which stays
        there for five minutes, and a bucket that is listed every second fills up with them.
        """
        prefix = f"$KV.{self._name}."
        state = (await self._js.stream_info(f"KV_{self._name}", subjects_filter=f"{prefix}>")).state
        return sorted(subject.removeprefix(prefix) for subject in state.subjects or {})

    async def all(self) -> dict[str, Entry[M]]:
        """Read all records."""
        found = {key: await self.get(key) for key in await self.keys()}
        return {key: entry for key, entry in found.items() if entry is not None}

    async def follow(self, client: Client, on_change: OnChange[M]) -> None:
        """Call `on_change(key, value, revision)` for every record now and on every change, for ever.

        Revisions never go back. The stock watcher can stay silent for many seconds after the server was killed,
        so the watch is made anew at every reconnect, and every record is read again now and then.
        """
        seen: dict[str, int] = {}
        again = asyncio.Event()

        async def apply(key: str, value: bytes | None, revision: int | None) -> None:
            if value and revision and revision > seen.get(key, 0):
                seen[key] = revision
                await self._tell(on_change, key, value, revision)

        async def pump(watcher: KeyValue.KeyWatcher) -> None:
            async for entry in watcher:
                if entry is not None:
                    await apply(entry.key, entry.value, entry.revision)

        async def safety_net() -> None:
            while True:
                await asyncio.sleep(_SAFETY_NET_S)
                with contextlib.suppress(nats.errors.Error, asyncio.TimeoutError):
                    bucket = await self._bucket()
                    for key in await self.keys():
                        entry = await bucket.get(key)
                        await apply(key, entry.value, entry.revision)

        net = asyncio.create_task(safety_net())
        on_reconnect(client, again.set)
        try:
            while True:
                again.clear()
                with contextlib.suppress(nats.errors.Error, asyncio.TimeoutError):
                    await self._watch_once(pump, again)
                await asyncio.sleep(_RETRY_S)
        finally:
            net.cancel()

    async def _tell(self, on_change: OnChange[M], key: str, value: bytes, revision: int) -> None:
        try:
            record = self._record.model_validate_json(value)
        except ValidationError as error:  # one unreadable record must not hide all the others
            structlog.get_logger().error("unreadable record", bucket=self._name, key=key, error=str(error))
            return
        await on_change(key, record, revision)

    async def _watch_once(self, pump: Callable[[Any], Awaitable[None]], again: asyncio.Event) -> None:
        watcher = await (await self._bucket()).watchall()
        tasks = [asyncio.ensure_future(pump(watcher)), asyncio.ensure_future(again.wait())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await watcher.stop()  # type: ignore[no-untyped-call]  # nats-py leaves it untyped


def on_reconnect(client: Client, callback: Callable[[], None]) -> None:
    """Call `callback` after every reconnect of a NATS client, beside whatever it calls already."""
    earlier = client._reconnected_cb  # noqa: SLF001 - nats-py offers no way to add a second callback

    async def both() -> None:
        callback()
        if earlier is not None:
            await earlier()

    client._reconnected_cb = both  # noqa: SLF001


def kept_changing(bucket: str, key: str) -> Transient:
    """Return the error of an edit that another writer forestalled at each attempt."""
    reason = f"The record {bucket}/{key} kept changing: each of {EDIT_ATTEMPTS} edits was too late."
    return Transient("bus_unavailable", reason)


def _dump(value: BaseModel) -> bytes:
    return value.model_dump_json().encode()
