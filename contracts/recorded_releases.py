"""The parts of the registry's records that clients read."""

from __future__ import annotations

from pydantic import Field

from .facts import ReleaseOpened, VariantBenchmarked, VariantEvaluated
from .facts.progress import ReleaseProgress
from .vocabulary import Contract, Digest, Variant


class RecordedRelease(Contract):
    """Part of the registry's record of a release."""

    opened: ReleaseOpened
    progress: ReleaseProgress
    benchmarked: dict[Variant, VariantBenchmarked] = Field(default_factory=dict)
    evaluated: VariantEvaluated | None = None
    asked: Digest | None = None


class ReleasesOfModel(Contract):
    """Part of the registry's record of a model: open releases, and the version of each release."""

    open: tuple[str, ...] = ()
    reservations: dict[str, int] = Field(default_factory=dict)

    def ids(self, version: int | None = None) -> tuple[str, ...]:
        """Return the ids of open releases and of a version's releases, by default the newest version's."""
        version = version or max(self.reservations.values(), default=0)
        named = (release_id for release_id, number in self.reservations.items() if number == version)
        return tuple(dict.fromkeys((*self.open, *named)))
