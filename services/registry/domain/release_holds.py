"""Pauses of a release before its next step: the order in effect, and the steps that it holds. Pure.

A pause stops nothing under way: a canary keeps its share, a worker finishes. It blocks no rollback, because rollbacks
change the route without the release.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from decisions.releases.plan import ROWS

BEGINNINGS: Final = frozenset(row.begins for row in ROWS.values() if row.begins)
"""Types of the facts that begin a step. A pause holds only these."""


@dataclass(frozen=True)
class HoldOrder:
    """An order to pause or resume a release.

    Attributes:
        at: Time when the bus stored it.
        id: ID of its event.
        paused: True for a pause, False for a resume.
    """

    at: datetime
    id: str
    paused: bool


def newest_hold(orders: Iterable[HoldOrder | None]) -> HoldOrder | None:
    """Return the order in effect: the one that the bus stored last."""
    return max((order for order in orders if order is not None), key=lambda order: (order.at, order.id), default=None)


def begins_step(key: str) -> bool:
    """Return whether the fact with this key (`type:part`) begins a step, so that a pause holds it."""
    return key.partition(":")[0] in BEGINNINGS


def start_of_deadline(moment: datetime, hold: HoldOrder | None) -> datetime:
    """Return the start of a step's time limit; a resumed release gets the full limit again."""
    return moment if hold is None or hold.paused else max(moment, hold.at)
