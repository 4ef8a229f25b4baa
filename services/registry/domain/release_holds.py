"""Holds of a release before its next step, by orders of people: the effective order, and the waiting step. Pure.

A pause stops nothing that is under way, and ends nothing: a canary keeps its share, a worker finishes. It blocks no
rollback, because a rollback changes the route without asking the release.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from decisions.releases.plan import ROWS

BEGINNINGS: Final = frozenset(row.begins for row in ROWS.values() if row.begins)
"""The facts by which the registry begins a step. A pause holds none of the others."""


@dataclass(frozen=True)
class HoldOrder:
    """An order to hold a release, or to let it go on.

    Attributes:
        at: When the bus stored it, by the bus's clock.
        id: Id of its event.
        paused: Whether it holds the release.
    """

    at: datetime
    id: str
    paused: bool


def newest_hold(orders: Iterable[HoldOrder | None]) -> HoldOrder | None:
    """Return the order that counts: the one that the bus stored last, in whatever order they are read."""
    return max((order for order in orders if order is not None), key=lambda order: (order.at, order.id), default=None)


def begins_step(key: str) -> bool:
    """Return whether a fact of a release begins a step, so that a pause holds it; keys are `type:part`."""
    return key.partition(":")[0] in BEGINNINGS


def start_of_deadline(moment: datetime, hold: HoldOrder | None) -> datetime:
    """Return when the time of an awaited step begins: a release that goes on has it anew."""
    return moment if hold is None or hold.paused else max(moment, hold.at)
