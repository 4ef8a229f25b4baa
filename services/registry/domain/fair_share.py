"""Fair start of releases: a team with many does not hold up other teams at the workers. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from contracts.vocabulary import ModelName


@dataclass(frozen=True)
class TeamWork:
    """A team's jobs at the workers, and the next one.

    Workers take work in the order in which it was requested. So a release waits behind at most `limit` of each other
    team. Within a team, what leaves a model's queue goes first: it was admitted earlier, and measuring it ends it.

    Attributes:
        limit: Maximum number of the team's releases with present or future work at the workers.
        at_work: Their current number.
        leaving: By model, the registration time of its release in progress that waits for the workers.
    """

    limit: int
    at_work: int = 0
    leaving: Mapping[ModelName, datetime] = field(default_factory=dict)

    @property
    def is_full(self) -> bool:
        """Return whether no release of the team may begin or leave a queue."""
        return self.at_work >= self.limit

    def may_leave(self, model: ModelName) -> bool:
        """Return whether a model's release in progress is staged and measured now, the one registered first first."""
        return model in _first(self.leaving, self.limit - self.at_work)

    def may_begin(self, model: ModelName, waiting: Mapping[ModelName, datetime]) -> bool:
        """Return whether a model's next checkpoint is admitted now, the one that was announced first first.

        Args:
            model: The model.
            waiting: By model, when its next checkpoint was announced; only those that could begin now.
        """
        return model in _first(waiting, self.limit - self.at_work - len(self.leaving))


def _first(since: Mapping[ModelName, datetime], count: int) -> list[ModelName]:
    return sorted(since, key=lambda name: (since[name], name))[: max(count, 0)]
