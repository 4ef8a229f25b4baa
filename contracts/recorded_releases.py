"""The registry's records of releases, with their measurements, as clients read them."""

from __future__ import annotations

from pydantic import Field

from .facts import ReleaseOpened, VariantBenchmarked, VariantEvaluated
from .facts.progress import ReleaseProgress
from .vocabulary import Contract, Digest, Variant


class RecordedRelease(Contract):
    """Of the registry's record of a release."""

    opened: ReleaseOpened
    progress: ReleaseProgress
    benchmarked: dict[Variant, VariantBenchmarked] = Field(default_factory=dict)
    evaluated: VariantEvaluated | None = None
    asked: Digest | None = None


class ReleasesOfModel(Contract):
    """Of the registry's record of a model: its releases that may not have ended, and the version of each."""

    open: tuple[str, ...] = ()
    reservations: dict[str, int] = Field(default_factory=dict)

    def ids(self, version: int | None = None) -> tuple[str, ...]:
        """Return the releases in progress, and those of a version, by default of the newest."""
        version = version or max(self.reservations.values(), default=0)
        named = (release_id for release_id, number in self.reservations.items() if number == version)
        return tuple(dict.fromkeys((*self.open, *named)))
