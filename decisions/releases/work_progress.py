"""The work in progress on a release. Pure."""

from collections.abc import Iterable

from contracts.envelope import Event
from contracts.facts import WorkProgressed
from contracts.facts.progress import ReleaseProgress
from contracts.vocabulary import Variant


def ongoing(release: ReleaseProgress, reports: Iterable[Event[WorkProgressed]]) -> tuple[WorkProgressed, ...]:
    """Return the last report of each awaited variant, in the order of the variants, and of merge and reloads.

    Reports older than the end of the last step are ignored.

    Args:
        release: The release.
        reports: Its reports in order of arrival.
    """
    if release.outcome is not None:
        return ()
    awaited = {variant for step in release.steps if step.state == "running" for variant in step.awaited}
    chosen = release.target.variant if release.target is not None else None
    last: dict[Variant | None, WorkProgressed] = {}
    for report in reports:
        variant = report.data.variant
        if variant in (None, chosen, *awaited) and report.time > release.since:
            last[variant] = report.data
    order = (None, *release.variants)
    return tuple(sorted(last.values(), key=lambda work: order.index(work.variant) if work.variant in order else 0))
