"""Runtimes of versions and fleets, and the liveness of server-managers."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from contracts.runtimes import DEFAULT_RUNTIME, FleetRuntime, FleetRuntimes
from contracts.vocabulary import ServingSettings

NAME_RULE: Final = "use 1 to 40 lower-case letters, digits and inner dots and hyphens"
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,38}[a-z0-9])?")


SILENT: Final = timedelta(seconds=15)
"""Age of the last renewal at which a fleet counts as silent; leases are renewed every 2 s and expire after 6 s."""


@dataclass(frozen=True)
class ListedFleet:
    """A fleet with the state that its server-manager recorded.

    Attributes:
        endpoints: Last recorded state of the endpoints.
        is_current: Whether a server-manager renews the fleet's lease, so that `endpoints` is current.
        reported_at: Last renewal by the bus's clock; None if current or unknown.
    """

    name: str
    endpoints: tuple[FleetRuntime, ...]
    is_current: bool = True
    reported_at: datetime | None = None


def listed_fleet(name: str, fleet: FleetRuntimes, renewed_at: datetime | None, now: datetime) -> ListedFleet:
    """Return a fleet, current if its lease was renewed within `SILENT` of `now`."""
    is_current = renewed_at is not None and now - renewed_at < SILENT
    return ListedFleet(name, fleet.runtimes, is_current, None if is_current else renewed_at)


def is_runtime_name(name: str) -> bool:
    """Return whether a name is valid for runtimes."""
    return _NAME.fullmatch(name) is not None


def runtime_name(serving: ServingSettings | None) -> str:
    """Return the name of the runtime for these settings."""
    return (serving.runtime if serving is not None else None) or DEFAULT_RUNTIME


def why_no_runtime(serving: ServingSettings | None, runtimes: Collection[str]) -> str | None:
    """Return why a fleet with these runtimes cannot serve a version, with advice; None if it can."""
    name = runtime_name(serving)
    if name in runtimes:
        return None
    known = ", ".join(sorted(runtimes))
    return f"The serving fleet has no runtime {name}; it has {known}. Publish with one of them, or add {name} to it."
