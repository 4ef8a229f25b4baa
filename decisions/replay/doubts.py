"""When recorded alerts were open that nothing confirmed: a replay holds what the rollback-controller held. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from contracts.envelope import Event
from contracts.facts import AlertRaised, AlertResolved, AlertUpdated, RollbackStarted
from contracts.facts.watch import AlertKind
from contracts.vocabulary import Target

Spans = Mapping[tuple[Target, AlertKind], Sequence[tuple[datetime, datetime | None]]]
"""By target and kind of alert: from when to when nothing confirmed it; None for to the end of the log."""
_SPREAD = timedelta(seconds=60)
"""How much earlier than the recorded alert a replay may see it: it spreads a window's bad requests evenly."""


def find_doubts(events: Iterable[Event[Any]]) -> Spans:
    """Return when recorded alerts were open without a confirmation, until something showed the cause."""
    spans: dict[tuple[Target, AlertKind], list[tuple[datetime, datetime | None]]] = {}
    for event in events:
        fact = event.data
        if isinstance(fact, RollbackStarted):
            for (target, _), known in spans.items():
                if target == fact.failed and fact.mode == "automatic":
                    _end(known, event.time)
        elif isinstance(fact, AlertRaised | AlertUpdated | AlertResolved):
            known = spans.setdefault((fact.target, fact.kind), [])
            doubtful = fact.confirmed_by == "none" and not isinstance(fact, AlertResolved)
            if not doubtful:
                _end(known, event.time)
            elif not known or known[-1][1] is not None:
                known.append((event.time, None))
    return spans


def is_in_doubt(spans: Spans, target: Target, kind: AlertKind, at: datetime) -> bool:
    """Return whether nothing confirmed an alert at a moment."""
    return any(
        since - _SPREAD <= at and (until is None or at < until) for since, until in spans.get((target, kind), ())
    )


def _end(known: list[tuple[datetime, datetime | None]], at: datetime) -> None:
    if known and known[-1][1] is None:
        known[-1] = (known[-1][0], at)
