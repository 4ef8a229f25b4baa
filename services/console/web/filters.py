"""Query parameters that filter the lists of pages."""

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any

from fastapi import Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from services.console.queries.reading import LARGEST_PAGE

Part = Annotated[str, Field(max_length=100)]


def moment_of(text: str, *, ends: bool = False) -> str:
    """Convert an ISO 8601 time or date to the index's format; with `ends`, a date includes its whole day.

    Raises:
        ValueError: The text is neither.
    """
    try:
        at = datetime.combine(date.fromisoformat(text), datetime.min.time()) + timedelta(days=ends)
    except (ValueError, OverflowError):
        at = _time_of(text)
    return at.replace(tzinfo=at.tzinfo or UTC).astimezone(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def _time_of(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
        at.replace(tzinfo=at.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        msg = f"{text[:40]!r} is no time: use one such as 2026-11-27 or 2026-11-27T02:30:00Z (UTC)"
        raise ValueError(msg) from None
    return at


def _is_a_moment(text: str) -> str:
    if text:
        moment_of(text)
    return text


Moment = Annotated[Part, AfterValidator(_is_a_moment)]
"""A date or time in ISO 8601, UTC."""
PARTS = {"after", "limit"}


class Filter(BaseModel):
    """Common filters: `model` is part of a name, or all of it with `exact`; `after` entries are skipped."""

    model_config = ConfigDict(frozen=True)

    model: Part = ""
    exact: bool = False
    after: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    limit: Annotated[int, Field(ge=1, le=LARGEST_PAGE)] = 50

    @property
    def values(self) -> dict[str, Any]:
        """Return all parameters by name, with times in the index's format."""
        values = self.model_dump()
        for name in ("since", "until"):
            if values.get(name):
                values[name] = moment_of(values[name], ends=name == "until")
        return values

    @property
    def shown(self) -> dict[str, Any]:
        """Return the parameters that a person sets, without paging."""
        return self.model_dump(exclude=PARTS)


class FleetFilter(Filter):
    """Filters of models; `state` is `shadow`, `canary`, `alert` or `idle`."""

    state: Part = ""


class ReleaseFilter(Filter):
    """Filters of releases; `state` is `open`, `finished`, a state or an outcome."""

    state: Part = ""
    since: Moment = ""
    until: Moment = ""


class RefusedFilter(Filter):
    """Filters of refused checkpoints; `code` is an error code such as `policy_invalid`."""

    code: Part = ""
    since: Moment = ""
    until: Moment = ""


class AlertFilter(Filter):
    """Filters of alerts; `state` is `open` or `resolved`."""

    state: Part = ""
    severity: Part = ""
    environment: Part = "production"
    since: Moment = ""
    until: Moment = ""


class TimelineFilter(Filter):
    """Filters of route changes."""

    since: Moment = ""
    until: Moment = ""


class HistoryFilter(Filter):
    """Filters of events: `type` such as `alert.raised` or `alert.*`, `about` an ID of an event, alert or order.

    `audited` keeps only events in the audit log.
    """

    type: Part = ""
    sender: Part = ""
    text: Part = ""
    audited: bool = False
    about: Annotated[str, Field(max_length=200)] = ""
    since: Moment = ""
    until: Moment = ""


FleetQuery = Annotated[FleetFilter, Query()]
ReleaseQuery = Annotated[ReleaseFilter, Query()]
RefusedQuery = Annotated[RefusedFilter, Query()]
AlertQuery = Annotated[AlertFilter, Query()]
TimelineQuery = Annotated[TimelineFilter, Query()]
HistoryQuery = Annotated[HistoryFilter, Query()]
