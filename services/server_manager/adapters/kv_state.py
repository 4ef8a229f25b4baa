"""The fleet's record and the routes, in JetStream key-value buckets."""

from collections.abc import Callable
from typing import TypeVar

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from pydantic import BaseModel

from contracts.routes import Changed, Edit, Route
from services.server_manager.domain.records import Leader, Servers
from shared.clock import Clock
from shared.kv import EDIT_ATTEMPTS, Bucket, Conflict, Entry, kept_changing

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
        for _ in range(EDIT_ATTEMPTS):
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
        raise kept_changing("servers", self._fleet)


class KvRoutes:
    """The bucket `routes`, one record per model."""

    def __init__(self, js: Callable[[], JetStreamContext]) -> None:
        self._js = js

    def bucket(self) -> Bucket[Route]:
        """Give the bucket."""
        return Bucket(self._js(), "routes", Route, service=SERVICE)

    async def all(self) -> dict[str, Route]:
        """Return every route by model; none when the bucket does not exist."""
        try:
            return {model: entry.value for model, entry in (await self.bucket().all()).items()}
        except NotFoundError:
            return {}

    async def edit(self, model: str, change: Callable[[Route], Edit]) -> Edit:
        """Decide on the route as it is, and write what was decided only if it still is so."""
        bucket = self.bucket()
        for _ in range(EDIT_ATTEMPTS):
            entry = await bucket.get(model)
            edit = change(Route(model=model) if entry is None else entry.value)
            if not isinstance(edit, Changed):
                return edit
            try:
                await _write(bucket, model, entry, edit.route)
            except Conflict:
                continue
            return edit
        raise kept_changing("routes", model)


class KvLeadership:
    """The lead of a fleet: whoever holds it renews it; one that was not renewed for `lease_s` may be taken.

    Time is measured by the watcher's own clock between two looks at the revision, so clocks need not agree.
    """

    def __init__(
        self, js: Callable[[], JetStreamContext], fleet: str, holder: str, clock: Clock, *, lease_s: float = 6.0
    ) -> None:
        self._js = js
        self._key = f"{fleet}.leader"
        self._holder = holder
        self._clock = clock
        self._lease_s = lease_s
        self._seen = (0, 0.0)
        self._renewed = -lease_s

    async def hold(self) -> bool:
        """Take, renew or miss the lead; tell whether it is held now."""
        bucket = Bucket(self._js(), "servers", Leader)
        entry = await bucket.get(self._key)
        now = self._clock.monotonic()
        term = 0 if entry is None else entry.value.term
        if entry is not None and entry.value.holder == self._holder:
            if now - self._renewed < self._lease_s / 3:
                return True
        elif entry is not None:
            if entry.revision != self._seen[0]:
                self._seen = (entry.revision, now)
            if now - self._seen[1] < self._lease_s:
                return False
            term += 1
        try:
            await _write(bucket, self._key, entry, Leader(holder=self._holder, term=term))
        except Conflict:
            return False
        self._renewed = now
        return True
