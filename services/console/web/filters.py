"""What lists are filtered by: the parameters of the API and of the pages."""

from typing import Annotated, Any

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field

from services.console.queries.reading import LARGEST_PAGE

Part = Annotated[str, Field(max_length=100)]
Since = Annotated[str, Field(max_length=100, description="Only what is of this time or later (ISO 8601, UTC).")]
Until = Annotated[str, Field(max_length=100, description="Only what is of before this time.")]
PARTS = {"after", "limit"}


class Filter(BaseModel):
    """A part of a list."""

    model_config = ConfigDict(frozen=True)

    model: Annotated[str, Field(max_length=100, description="The model's name, or a part of it.")] = ""
    after: Annotated[int, Field(ge=0, le=1_000_000, description="Entries that are left out at the beginning.")] = 0
    limit: Annotated[int, Field(ge=1, le=LARGEST_PAGE, description="Entries that are returned at most.")] = 50

    @property
    def values(self) -> dict[str, Any]:
        """Return all parameters by their names."""
        return self.model_dump()

    @property
    def shown(self) -> dict[str, Any]:
        """Return the parameters that a person sets: all but those that say which part is shown."""
        return self.model_dump(exclude=PARTS)


class FleetFilter(Filter):
    """Which models; `state` is `canary`, `alert` or `idle`."""

    state: Part = ""


class ReleaseFilter(Filter):
    """Which releases; `state` is `open`, `finished`, a state or an outcome."""

    state: Part = ""
    since: Since = ""
    until: Until = ""


class AlertFilter(Filter):
    """Which alerts; `state` is `open` or `resolved`."""

    state: Part = ""
    severity: Part = ""
    environment: Part = "production"
    since: Since = ""
    until: Until = ""


class TimelineFilter(Filter):
    """Which changes of routes."""

    since: Since = ""
    until: Until = ""


class HistoryFilter(Filter):
    """Which events; `type` is such as `alert.raised` or `alert.*`, `about` the id of an event, alert or order."""

    type: Part = ""
    sender: Part = ""
    text: Part = ""
    audited: Annotated[bool, Field(description="Only entries of the audit log.")] = False
    about: Annotated[str, Field(max_length=200)] = ""
    since: Since = ""
    until: Until = ""


class RehearsalFilter(Filter):
    """Which rehearsals; `verdict` is `pass` or `fail`."""

    verdict: Part = ""


RehearsalQuery = Annotated[RehearsalFilter, Query()]
DrillQuery = Annotated[Filter, Query()]
FleetQuery = Annotated[FleetFilter, Query()]
ReleaseQuery = Annotated[ReleaseFilter, Query()]
AlertQuery = Annotated[AlertFilter, Query()]
TimelineQuery = Annotated[TimelineFilter, Query()]
HistoryQuery = Annotated[HistoryFilter, Query()]
