"""What the event log says of one release: pure functions of its events."""

from collections.abc import Sequence
from datetime import datetime

from clients.cli.events.event_log import LoggedEvent
from contracts.facts import (
    CheckpointReady,
    CheckpointRejected,
    DeploymentChanged,
    ReleaseFinished,
    ReleaseOpened,
    RollbackCompleted,
    TrafficRequested,
)
from contracts.routes import Route
from contracts.vocabulary import Target

ALL_TRAFFIC = 1.0


def releases_of(events: Sequence[LoggedEvent], run_id: str) -> set[str]:
    """Return the ids of the releases that a training run's checkpoint opened."""
    return {
        each.event.data.release_id
        for each in events
        if isinstance(each.event.data, ReleaseOpened) and each.event.data.training.run_id == run_id
    }


def announcements_of(events: Sequence[LoggedEvent], run_id: str) -> set[str]:
    """Return the ids of the events that announced a training run's checkpoint."""
    return {
        each.event.id
        for each in events
        if isinstance(each.event.data, CheckpointReady) and each.event.data.training.run_id == run_id
    }


def end_of(events: Sequence[LoggedEvent], run_id: str) -> ReleaseFinished | CheckpointRejected | None:
    """Return the event that ended the release of a training run, or refused its checkpoint; None before."""
    announcements, opened = announcements_of(events, run_id), releases_of(events, run_id)
    for each in events:
        data = each.event.data
        if isinstance(data, ReleaseFinished) and data.release_id in opened:
            return data
        if isinstance(data, CheckpointRejected) and not opened and each.event.causationid in announcements:
            return data
    return None


def all_traffic_at(events: Sequence[LoggedEvent], run_id: str) -> datetime | None:
    """Return when all traffic was ordered for a release, or it ended; None before.

    From then on a canary cannot fail any more, and an order to cancel comes too late.
    """
    opened = releases_of(events, run_id)
    times = [
        each.event.time
        for each in events
        if isinstance(each.event.data, TrafficRequested | ReleaseFinished)
        and each.event.data.release_id in opened
        and getattr(each.event.data, "weight_ratio", ALL_TRAFFIC) == ALL_TRAFFIC
    ]
    return min(times, default=None)


def version_of(events: Sequence[LoggedEvent], run_id: str) -> int | None:
    """Return the version that is made of a training run's checkpoint; None before its release is opened."""
    for each in events:
        if isinstance(each.event.data, ReleaseOpened) and each.event.data.training.run_id == run_id:
            return each.event.data.version
    return None


def _routes(events: Sequence[LoggedEvent], model: str) -> list[Route]:
    routes = [each.event.data.route for each in events if isinstance(each.event.data, DeploymentChanged)]
    return [route for route in routes if route.model == model]


def is_served(events: Sequence[LoggedEvent], model: str) -> bool:
    """Return whether a version of a model has been active."""
    return any(route.active is not None for route in _routes(events, model))


def has_canary(events: Sequence[LoggedEvent], model: str, version: int | None) -> bool:
    """Return whether a version has taken a share of the traffic as a canary."""
    return any(
        route.canary is not None and route.canary.served.target.version == version for route in _routes(events, model)
    )


def active_and_previous(events: Sequence[LoggedEvent], model: str, version: int | None) -> tuple[Target, Target] | None:
    """Return the target of a version and the previous one; None if the version is not active, or the only one."""
    newest = max(_routes(events, model), key=lambda route: route.epoch, default=None)
    if newest is None or newest.active is None or newest.previous is None or newest.active.target.version != version:
        return None
    return newest.active.target, newest.previous.target


def is_rolled_back(events: Sequence[LoggedEvent], model: str, version: int | None) -> bool:
    """Return whether a rollback of a version has been completed."""
    completed = [each.event for each in events if isinstance(each.event.data, RollbackCompleted)]
    return any(event.subject == model and event.data.failed.version == version for event in completed)
