"""What is at work on a release right now, of each variant the newest that was said. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from contracts.envelope import Event
from contracts.facts import WorkProgressed


@dataclass(frozen=True)
class Progress:
    """How far the work on a step is; of one variant, where it names one."""

    step: str
    done: float
    total: float
    unit: str
    variant: str = ""
    detail: str = ""

    @property
    def ratio(self) -> float:
        """Share of the work that is done."""
        return min(1.0, self.done / self.total) if self.total > 0 else 0.0


@dataclass(frozen=True)
class AtWork:
    """The work under way; `answered` says when a service answered about a variant."""

    progress: tuple[Progress, ...] = ()
    answered: Mapping[tuple[str, str], datetime] = field(default_factory=dict)

    def settle(self, event: Event[Any], variant: str = "") -> "AtWork":
        """Forget the progress of what an event answers; what its sender said before that is old news by now."""
        left = tuple(one for one in self.progress if one.variant != variant)
        return AtWork(left, {**self.answered, (event.source, variant): event.time})

    def advance(self, event: Event[WorkProgressed], wanted: Sequence[str]) -> "AtWork":
        """Take news of one variant, and keep all in the order in which they were requested."""
        data, variant = event.data, event.data.variant or ""
        answered_at = self.answered.get((event.source, variant))
        if answered_at is not None and event.time <= answered_at:
            return self
        mine = Progress(data.step, data.done, data.total, data.unit, variant, data.detail)
        others = (one for one in self.progress if one.variant != variant)
        order = {name: index for index, name in enumerate(wanted)}
        return replace(self, progress=tuple(sorted((*others, mine), key=lambda one: order.get(one.variant, -1))))
