"""Fair scheduling of releases: one team's releases do not block other teams at the workers. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from contracts.vocabulary import ModelName


@dataclass(frozen=True)
class TeamWork:
    """A team's work at the workers, which serve requests in order.

    A release therefore waits behind at most `limit` releases of each other team. Within a team, queued releases precede
    new admissions: they were admitted earlier and end sooner.

    Attributes:
        limit: Maximum number of the team's releases at the workers.
        at_work: Releases at the workers now.
        leaving: By model, the time since when its release in progress waits for the workers.
    """

    limit: int
    at_work: int = 0
    leaving: Mapping[ModelName, datetime] = field(default_factory=dict)

    @property
    def is_full(self) -> bool:
        """Return whether the team has no free place at the workers."""
        return self.at_work >= self.limit

    def may_leave(self, model: ModelName) -> bool:
        """Return whether a model's release in progress may go to staging now; the longest wait goes first."""
        return model in _first(self.leaving, self.limit - self.at_work)

    def may_begin(self, model: ModelName, waiting: Mapping[ModelName, datetime]) -> bool:
        """Return whether a model's next checkpoint is admitted now; the earliest announcement goes first.

        Args:
            model: The model.
            waiting: By model, when its next due checkpoint was announced.
        """
        return model in _first(waiting, self.limit - self.at_work - len(self.leaving))


def _first(since: Mapping[ModelName, datetime], count: int) -> list[ModelName]:
    return sorted(since, key=lambda name: (since[name], name))[: max(count, 0)]
