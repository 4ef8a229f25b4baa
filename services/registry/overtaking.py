"""Takes announcements of models that wait behind a backlog of others: one publisher's flood delays no other's release.

The consumer of announcements hands them out one at a time, in the order of the stream. While several wait, each team's
oldest ones are read from the stream and written into their models' records before it comes to them; then it finds them
there, settled or not. The order within a model stays: what is taken next follows what its record has.
"""

from collections.abc import Sequence

from contracts.teams import Team
from decisions.access.teams import owner_of
from services.registry.admissions import Admissions
from services.registry.domain.announcements import Announcement
from services.registry.ports import Backlog, Ports, announcements_key

MOST_AT_ONCE = 4
"""Announcements of one group that a sweep takes: those of others are next."""


class Overtaking:
    """One sweep takes a few waiting announcements of each group: a team, or the models of no team."""

    def __init__(self, ports: Ports, admissions: Admissions) -> None:
        self._ports = ports
        self._admissions = admissions
        self._backlog = Backlog(0, ())
        self._last: dict[str, str] = {}

    async def groups(self) -> list[str]:
        """Return the groups that may have waiting announcements; none while no backlog delays any."""
        self._backlog = await self._ports.inbox.backlog()
        teams = self._ports.teams()
        return sorted({group_of(model, teams) for model in self._backlog.models})

    async def sweep(self, group: str) -> None:
        """Take the oldest waiting announcements of a group, one of each model in turn."""
        teams, taken = self._ports.teams(), 0
        waiting = [model for model in self._backlog.models if group_of(model, teams) == group]
        while waiting and taken < MOST_AT_ONCE:
            model = in_turn(waiting, self._last.get(group))[0]
            if await self._take(model):
                taken += 1
            else:
                waiting.remove(model)
            self._last[group] = model

    async def _take(self, model: str) -> bool:
        """Return whether an announcement of a model waited, and is written down now."""
        record = await self._ports.announcements.read(announcements_key(model))
        after = max(self._backlog.settled, record.last_sequence if record is not None else 0)
        oldest = await self._ports.inbox.next_of(model, after)
        if oldest is None:
            return False
        event, sequence, stored_at = oldest
        announcement = Announcement(
            sequence=sequence,
            event_id=event.id,
            correlation_id=event.correlationid,
            environment=event.environment,
            stored_at=stored_at,
        )
        await self._admissions.receive(model, announcement)
        return True


def group_of(model: str, teams: Sequence[Team]) -> str:
    """Return what an announcement of a model shares its turns with: its team's, or those of models of no team.

    Without teams, each model has turns of its own.
    """
    team = owner_of(model, teams)
    if team is not None:
        return f"team {team.name}"
    return "no team" if teams else model


def in_turn(models: Sequence[str], last: str | None) -> list[str]:
    """Return models in their order, those after the last one first."""
    ordered = sorted(models)
    return [model for model in ordered if last is None or model > last] + [
        model for model in ordered if last is not None and model <= last
    ]
