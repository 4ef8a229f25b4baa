"""The progress of all releases, computed from the event log. Pure.

A checkpoint and the release that it opens are in different streams, whose events may arrive in any order; `join` merges
them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from contracts import facts as f
from contracts.envelope import Event
from decisions.release_events import apply_event, apply_return, apply_rollback
from decisions.release_progress import ReleaseProgress

Releases = Mapping[str, ReleaseProgress]
_BEGINNINGS = (f.CheckpointReady, f.ReleaseOpened, f.CheckpointRejected, f.ReleaseFinished)


def project(events: Iterable[Event[Any]]) -> dict[str, ReleaseProgress]:
    """Return the progress of all releases that the events are about."""
    releases: dict[str, ReleaseProgress] = {}
    for event in events:
        releases.update(_changed(releases, event))
    return releases


def advance(releases: Releases, event: Event[Any]) -> dict[str, ReleaseProgress]:
    """Return the releases after one more event; events of staging or of no known release change nothing."""
    return {**releases, **_changed(releases, event)}


def _changed(releases: Releases, event: Event[Any]) -> dict[str, ReleaseProgress]:
    """Return the releases that an event changes, as they are then."""
    if isinstance(event.data, f.RollbackCompleted):
        return {key: apply_rollback(release, event) for key, release in releases.items()}
    is_back = isinstance(event.data, f.DeploymentChanged) and event.data.cause in ("return", "promote")
    if is_back and event.environment == "production":
        changed = {key: apply_return(release, event) for key, release in releases.items()}
        release = changed.get(event.correlationid)
        return changed if release is None else {**changed, release.key: apply_event(release, event)}
    key = _key_of(event)
    known = releases.get(key)
    if event.environment != "production" or (known is None and not isinstance(event.data, _BEGINNINGS)):
        return {}
    return {key: apply_event(known or ReleaseProgress(key, event.subject, event.time), event)}


def latest(releases: Releases, model: str | None = None) -> ReleaseProgress | None:
    """Return the newest release, of a model or of all; None if there is none.

    Of those with a version it is each model's highest, whatever the clocks of the publishers; then the time decides.
    """
    candidates = [release for release in releases.values() if model is None or release.model == model]
    highest: dict[str, int] = {}
    for release in candidates:
        highest[release.model] = max(release.version or 0, highest.get(release.model, 0))
    newest = (release for release in candidates if release.version in {None, highest[release.model]})
    return max(newest, key=lambda release: (release.began_at, release.version or 0), default=None)


def _key_of(event: Event[Any]) -> str:
    """Return the key of the release of an event: the id of checkpoint.ready, until the release has an id."""
    data = event.data
    if isinstance(data, f.CheckpointReady):
        return event.id
    if isinstance(data, f.CheckpointRejected) and event.source.endswith("/registry"):
        return event.causationid or event.correlationid
    return event.correlationid


def join(releases: Releases) -> dict[str, ReleaseProgress]:
    """Return the releases, each merged with the checkpoint that opened it; repeated checkpoints are dropped."""
    opened = [release for release in releases.values() if release.release_id is not None]
    opened_by = {release.source_id: release for release in opened}
    known_inputs = {release.inputs for release in opened if release.inputs}
    joined = {release.key: release for release in opened}
    for checkpoint in releases.values():
        if checkpoint.release_id is not None:
            continue
        if (release := opened_by.get(checkpoint.key)) is not None:
            joined[release.key] = replace(release, began_at=min(release.began_at, checkpoint.began_at))
        elif checkpoint.outcome is not None or checkpoint.inputs not in known_inputs:
            joined[checkpoint.key] = checkpoint
    return joined
