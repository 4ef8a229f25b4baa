"""Current use of a team's quotas and worker share, over all of its models."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar

import structlog

from contracts.facts import ReleaseOpened
from contracts.records import OutboxRecord
from contracts.teams import Team
from decisions.access.teams import owner_of
from services.registry.domain import admission, announcements, deadlines
from services.registry.domain.fair_share import TeamWork
from services.registry.domain.record import Release
from services.registry.domain.team_quotas import most_bytes
from services.registry.domain.versions import ModelRecord
from services.registry.ports import Ports, announcements_key, model_key, release_key
from shared.errors import Transient
from shared.messaging.delivery import RECORD_FAILURES
from shared.messaging.records import RecordStore
from shared.runtime.clock import Clock

FULL_S = 1.0
"""Seconds before a team with a full worker share is counted again, because each of its models asks."""
LISTED_S = 60.0
"""Seconds between listings of the models without a team; models read meanwhile are added."""
R = TypeVar("R", bound=OutboxRecord)


@dataclass(frozen=True)
class Load:
    """A team's use of its quotas; bytes are counted only if it has a byte quota.

    Attributes:
        team: The team; None for a model without one.
        under_way: Open releases of the team's models.
        stored: Bytes in the store.
        reserved: Maximum bytes that open releases may add.
        needed: Maximum bytes that the new release may add.
        begins: Whether the new release may go to the workers now.
    """

    team: Team | None
    under_way: int = 0
    stored: int = 0
    reserved: int = 0
    needed: int = 0
    begins: bool = True


class TeamUse:
    """Counts the use of teams. Decisions about a team run one at a time, so that each sees the previous ones."""

    def __init__(self, ports: Ports, clock: Clock, work_per_team: int) -> None:
        self._ports = ports
        self._clock = clock
        self._work_per_team = work_per_team
        self._full_until_s: dict[tuple[str, str], float] = {}
        self._announced: set[str] = set()
        self._listed_until_s = 0.0
        self._locks: defaultdict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)

    @contextlib.asynccontextmanager
    async def announcing(self, model: str) -> AsyncIterator[tuple[Team | None, list[datetime]]]:
        """Yield the team that owns a model, and the stream times of its other models' accepted announcements."""
        team = owner_of(model, self._ports.teams())
        if team is None or team.quota.announcements_per_minute is None:
            yield team, []
            return
        async with self._locks["announcing", team.name]:
            others = [other for other in team.models if other != model]
            read = [await _read(self._ports.announcements, announcements_key(other)) for other in others]
            yield team, [at for record in read if record is not None for at in record.accepted]

    @contextlib.asynccontextmanager
    async def opening(self, opened: ReleaseOpened) -> AsyncIterator[Load]:
        """Yield the quota use of the team that owns a release's model, and whether the release may begin now.

        If teams are configured, all models without a team count as one group.
        """
        teams = self._ports.teams()
        team = owner_of(opened.model, teams)
        if not teams:
            yield Load(team)
            return
        group = team.name if team is not None else ""
        async with self._locks["opening", group]:
            if self._is_full("admitting", group):
                yield Load(team, begins=False)
                return
            models = await self._models_with(opened.model, team, teams)
            records = await self._records(models)
            load = Load(team, sum(len(record.open) for record in records))
            load = await self._with_bytes(load, opened, records)
            yield replace(load, begins=await self._begins(opened.model, models, records, group))

    async def has_turn(self, model: str) -> bool:
        """Return whether a model's next release could begin now; asked before verification, decided at opening."""
        teams = self._ports.teams()
        if not teams:
            return True
        team = owner_of(model, teams)
        group = team.name if team is not None else ""
        async with self._locks["opening", group]:
            if self._is_full("admitting", group):
                return False
            models = await self._models_with(model, team, teams)
            return await self._begins(model, models, await self._records(models), group)

    @contextlib.asynccontextmanager
    async def leaving(self, release: Release) -> AsyncIterator[bool]:
        """Yield whether a release that waits in progress may go to staging now."""
        teams = self._ports.teams()
        if not teams:
            yield True
            return
        team = owner_of(release.model, teams)
        group = team.name if team is not None else ""
        async with self._locks["opening", group]:
            if self._is_full("leaving", group):
                yield False
                return
            records = await self._records(await self._models_with(release.model, team, teams))
            work = await self._work(records)
            if work.is_full:
                self._set_full("leaving", group)
            yield work.may_leave(release.model)

    def _is_full(self, what: str, group: str) -> bool:
        return self._clock.monotonic() < self._full_until_s.get((what, group), 0.0)

    def _set_full(self, what: str, group: str) -> None:
        self._full_until_s[what, group] = self._clock.monotonic() + FULL_S

    async def _records(self, models: Sequence[str]) -> list[ModelRecord]:
        read = [await _read(self._ports.models, model_key(model)) for model in models]
        return [record for record in read if record is not None]

    async def _models_with(self, model: str, team: Team | None, teams: Sequence[Team]) -> tuple[str, ...]:
        """Return the models that share a team's worker share with a model; models without a team form a group.

        That group is listed once in `LISTED_S` seconds, because the bucket holds all releases ever opened.
        """
        if team is not None:
            return team.models
        now_s = self._clock.monotonic()
        if now_s >= self._listed_until_s:
            suffix = announcements_key("")
            keys = await self._ports.announcements.keys()
            self._announced = {key.removesuffix(suffix) for key in keys if key.endswith(suffix)}
            self._listed_until_s = now_s + LISTED_S
        self._announced.add(model)
        return tuple(name for name in sorted(self._announced) if owner_of(name, teams) is None)

    async def _begins(self, model: str, models: Sequence[str], records: Sequence[ModelRecord], group: str) -> bool:
        work = await self._work(records)
        if work.at_work + len(work.leaving) >= work.limit:
            self._set_full("admitting", group)
            return False
        waiting = {}
        for name in models:
            announced = await _read(self._ports.announcements, announcements_key(name))
            head = announcements.due(announced, self._clock.now()) if announced is not None else None
            if head is not None:
                waiting[name] = head.stored_at
        return model not in waiting or work.may_begin(model, waiting)

    async def _work(self, records: Sequence[ModelRecord]) -> TeamWork:
        at_work, leaving = 0, {}
        for record in records:
            for release_id in record.open:
                release = await _read(self._ports.releases, release_key(record.model, release_id))
                at_work += deadlines.is_at_work(release) if release is not None else _is_reserved(record, release_id)
                if release is not None and deadlines.is_leaving(release, record.in_progress):
                    leaving[record.model] = deadlines.since(release, "queue")
        return TeamWork(self._work_per_team, at_work, leaving)

    async def _with_bytes(self, load: Load, opened: ReleaseOpened, records: list[ModelRecord]) -> Load:
        """Add stored and reserved bytes to a team's use."""
        if load.team is None or load.team.quota.stored_bytes is None:
            return load
        sizes: dict[str, int] = {}
        for model in load.team.models:
            sizes |= await self._ports.artifacts.sizes(model)
        under_way = [await self._adding(record, release_id) for record in records for release_id in record.open]
        reserved = sum([await self._most_bytes(release) for release in under_way if release is not None])
        return replace(load, stored=sum(sizes.values()), reserved=reserved, needed=await self._most_bytes(opened))

    async def _adding(self, record: ModelRecord, release_id: str) -> ReleaseOpened | None:
        """Return the opening of a release that may still store bytes; None otherwise."""
        release = await _read(self._ports.releases, release_key(record.model, release_id))
        if release is not None:
            return release.opened if release.manifest is None and release.opened.returns is None else None
        return record.opening if _is_reserved(record, release_id) else None

    async def _most_bytes(self, opened: ReleaseOpened) -> int:
        key = admission.base_key(opened.base)
        base = await self._ports.artifacts.find_base(key) if key else None
        return most_bytes(base.weights_bytes, len(opened.variants)) if base is not None else 0


def _is_reserved(record: ModelRecord, release_id: str) -> bool:
    """Return whether a release has no record yet; otherwise its record is unreadable."""
    return record.opening is not None and record.opening.release_id == release_id


async def _read(store: RecordStore[R], key: str) -> R | None:
    """Return a record; None if missing or unusable, so that it does not block other models."""
    try:
        return await store.read(key)
    except Transient as error:
        if error.code not in RECORD_FAILURES:
            raise
        structlog.get_logger().warning("a record does not count for its team's quota", key=key, reason=error.reason)
        return None
