"""The fleet's record and the routes, in JetStream key-value buckets."""

from collections.abc import Callable
from typing import TypeVar

from nats.js import JetStreamContext
from pydantic import BaseModel

from contracts.routes import Changed, Edit, Route
from services.server_manager.domain.records import Servers
from shared.kv import Bucket, Conflict, Entry

M = TypeVar("M", bound=BaseModel)
SERVICE = "server-manager"


async def _write(bucket: Bucket[M], key: str, entry: Entry[M] | None, value: M) -> None:
    if entry is None:
        await bucket.create(key, value)
    else:
        await bucket.update(key, value, entry.revision)


class KvState:
    """The record `servers/<fleet>`."""

    def __init__(self, js: Callable[[], JetStreamContext], fleet: str) -> None:
        self._js = js
        self._fleet = fleet

    def _bucket(self) -> Bucket[Servers]:
        return Bucket(self._js(), "servers", Servers, service=SERVICE)

    async def read(self) -> Servers:
        """Give the record; an empty one when there is none yet."""
        entry = await self._bucket().get(self._fleet)
        return Servers() if entry is None else entry.value

    async def edit(self, change: Callable[[Servers], Servers]) -> Servers:
        """Apply a pure edit by compare-and-set; writes nothing when nothing changes."""
        bucket = self._bucket()
        while True:
            entry = await bucket.get(self._fleet)
            before = Servers() if entry is None else entry.value
            after = change(before)
            if after == before:
                return before
            try:
                await _write(bucket, self._fleet, entry, after)
            except Conflict:
                continue
            return after


class KvRoutes:
    """The bucket `routes`, one record per model."""

    def __init__(self, js: Callable[[], JetStreamContext]) -> None:
        self._js = js

    def bucket(self) -> Bucket[Route]:
        """Give the bucket."""
        return Bucket(self._js(), "routes", Route, service=SERVICE)

    async def all(self) -> dict[str, Route]:
        """Give every route by model."""
        return {model: entry.value for model, entry in (await self.bucket().all()).items()}

    async def edit(self, model: str, change: Callable[[Route], Edit]) -> Edit:
        """Decide on the route as it is, and write what was decided only if it still is so."""
        bucket = self.bucket()
        while True:
            entry = await bucket.get(model)
            edit = change(Route(model=model) if entry is None else entry.value)
            if not isinstance(edit, Changed):
                return edit
            try:
                await _write(bucket, model, entry, edit.route)
            except Conflict:
                continue
            return edit
