"""What the team that owns a model uses now, over all of its models, for its quota."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import datetime
from typing import TypeVar

import structlog

from contracts.records import OutboxRecord
from contracts.teams import Team
from decisions.teams import owner_of
from services.registry.ports import Ports, announcements_key, model_key
from shared.errors import Transient
from shared.messaging.delivery import RECORD_FAILURES
from shared.messaging.records import RecordStore

R = TypeVar("R", bound=OutboxRecord)


class TeamUse:
    """Counts what teams use. One decision about a team at a time in this process, so that two do not count alike."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._locks: defaultdict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)

    @contextlib.asynccontextmanager
    async def announcing(self, model: str) -> AsyncIterator[tuple[Team | None, list[datetime]]]:
        """Return the team that owns a model, and when its other models' accepted announcements were stored."""
        team = owner_of(model, self._ports.teams())
        if team is None or team.quota.announcements_per_minute is None:
            yield team, []
            return
        async with self._locks["announcing", team.name]:
            others = [other for other in team.models if other != model]
            read = [await _read(self._ports.announcements, announcements_key(other)) for other in others]
            yield team, [at for record in read if record is not None for at in record.accepted]

    @contextlib.asynccontextmanager
    async def opening(self, model: str) -> AsyncIterator[tuple[Team | None, int]]:
        """Return the team that owns a model, and how many releases of its models are under way."""
        team = owner_of(model, self._ports.teams())
        if team is None or team.quota.releases is None:
            yield team, 0
            return
        async with self._locks["opening", team.name]:
            read = [await _read(self._ports.models, model_key(each)) for each in team.models]
            yield team, sum(len(record.open) for record in read if record is not None)


async def _read(store: RecordStore[R], key: str) -> R | None:
    """Return a record; None if there is none, or it cannot be used: that must not hold up another model."""
    try:
        return await store.read(key)
    except Transient as error:
        if error.code not in RECORD_FAILURES:
            raise
        structlog.get_logger().warning("a record does not count for its team's quota", key=key, reason=error.reason)
        return None
