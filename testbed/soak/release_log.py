"""What the event log says of one release: pure functions of its events."""

from collections.abc import Sequence

from clients.cli.events.event_log import LoggedEvent
from contracts.facts import (
    CheckpointReady,
    CheckpointRejected,
    DeploymentChanged,
    ReleaseFinished,
    ReleaseOpened,
)


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


def is_served(events: Sequence[LoggedEvent], model: str) -> bool:
    """Return whether a version of a model has been active."""
    routes = [each.event.data.route for each in events if isinstance(each.event.data, DeploymentChanged)]
    return any(route.model == model and route.active is not None for route in routes)
