"""Versions of objects in the store: which was written first, what lies over a locked one, when a lock is renewed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True)
class ObjectVersion:
    """A version of an object, or a delete marker over it.

    Attributes:
        version_id: Its id; `null` for one that was written before the bucket had versions.
        latest: A reader who names no version gets this one, or of a marker the answer that there is nothing.
    """

    key: str
    version_id: str
    marker: bool
    latest: bool
    size: int
    modified: datetime


@dataclass(frozen=True)
class Pinned:
    """An object under lock: the versions that may be read of it, in the order in which they count."""

    key: str
    versions: tuple[str, ...]


@dataclass(frozen=True)
class Disturbance:
    """Something that was done to an object under lock.

    Attributes:
        over: Ids of versions and delete markers that lie over the locked version, the newest first.
        lost: No locked version of it is there any more.
        foreign: It is no object under lock: it lies among the records of locks, and the registry did not sign it.
        unkept: Why its retention cannot be set or extended; empty if it can.
    """

    key: str
    over: tuple[str, ...] = ()
    lost: bool = False
    foreign: bool = False
    unkept: str = ""

    def describe(self) -> str:
        """Return what was done, as a message names it."""
        if self.unkept:
            return f"{self.key} cannot be kept: {self.unkept}"
        if self.foreign:
            return f"{self.key} is no record that the registry signed"
        return f"{self.key} is lost" if self.lost else f"{self.key} was deleted or overwritten"


def is_renewed(until: datetime | None, now: datetime, period: timedelta) -> bool:
    """Return whether a retention is extended now: less than half of the period is left, or there is none."""
    return until is None or until - now < period / 2


def candidates(versions: Iterable[ObjectVersion], key: str, size: int | None) -> list[str]:
    """Return the versions of an object that may be what was written first, in the order in which they are tried.

    What was put over it later, or has another size, is not it. Several are told apart by their digest.
    """
    written = [
        version for version in versions if version.key == key and not version.marker and size in (None, version.size)
    ]
    return [version.version_id for version in written]


def assess_object(pinned: Pinned, latest: str | None, versions: Sequence[ObjectVersion]) -> Disturbance | None:
    """Return what was done to an object under lock; None if readers get its locked version.

    Stores write down seconds: what has the same one as the locked version lies over it, too.

    Args:
        pinned: The object.
        latest: The version that readers get who name none; None if there is none.
        versions: All of its versions, the oldest first; not used if the latest one is the locked one.
    """
    if latest in pinned.versions:
        return None
    others = [version for version in versions if version.key == pinned.key]
    kept = [version for version in others if version.version_id in pinned.versions and not version.marker]
    if not kept:
        return Disturbance(pinned.key, lost=True)
    since = max(version.modified for version in kept)
    over = tuple(
        version.version_id
        for version in reversed(others)
        if version.version_id not in pinned.versions and (version.latest or version.modified >= since)
    )
    return Disturbance(pinned.key, over)
