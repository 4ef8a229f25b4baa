"""The work in progress on a release: the newest progress event of each variant. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from contracts.envelope import Event
from contracts.facts import WorkProgressed


@dataclass(frozen=True)
class Progress:
    """The progress of a step, of one variant if it names one."""

    step: str
    done: float
    total: float
    unit: str
    variant: str = ""
    detail: str = ""

    @property
    def ratio(self) -> float:
        """Return the share of the work that is done."""
        return min(1.0, self.done / self.total) if self.total > 0 else 0.0


@dataclass(frozen=True)
class OngoingWork:
    """The work in progress; `answered` is when a service answered about a variant."""

    progress: tuple[Progress, ...] = ()
    answered: Mapping[tuple[str, str], datetime] = field(default_factory=dict)

    def settle(self, event: Event[Any], variant: str = "") -> "OngoingWork":
        """Return the work without the variant that an event answers; older progress of its sender is ignored."""
        left = tuple(progress for progress in self.progress if progress.variant != variant)
        return OngoingWork(left, {**self.answered, (event.source, variant): event.time})

    def advance(self, event: Event[WorkProgressed], variants: Sequence[str]) -> "OngoingWork":
        """Return the work after a progress event, in the order in which the variants were requested."""
        data, variant = event.data, event.data.variant or ""
        answered_at = self.answered.get((event.source, variant))
        if answered_at is not None and event.time <= answered_at:
            return self
        latest = Progress(data.step, data.done, data.total, data.unit, variant, data.detail)
        others = (progress for progress in self.progress if progress.variant != variant)
        order = {name: index for index, name in enumerate(variants)}
        return replace(
            self, progress=tuple(sorted((*others, latest), key=lambda progress: order.get(progress.variant, -1)))
        )
