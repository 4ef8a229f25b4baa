"""The progress of releases as the registry publishes it, for events that no registry has seen."""

from collections.abc import Iterable, Iterator
from typing import Any

from contracts import facts as f
from contracts.envelope import Event, source_of
from contracts.vocabulary import Deployable
from services.registry.domain.progress import progress_of
from services.registry.domain.record import Input, Release, TurnGranted, weight_key
from services.registry.domain.recording import record

_ASKED = {f.ApprovalRequested: "approval.requested", f.RehearsalRequested: "rehearsal.requested"}


def with_progress(events: Iterable[Event[Any]]) -> Iterator[Event[Any]]:
    """Yield events, and after each that moves a release its progress. Progress among them is left out."""
    releases: dict[str, Release] = {}
    for event in events:
        if isinstance(event.data, f.ReleaseProgressed):
            continue
        yield event
        data, key = event.data, event.correlationid
        if isinstance(data, f.ReleaseOpened):
            key = data.release_id
            releases[key] = Release(opened=data, opened_at=event.time)
        if key not in releases or event.environment != "production":
            continue
        after = _moved(releases[key], event)
        progress = progress_of(after)
        if progress != after.progress:
            yield _progressed(event, f.ReleaseProgressed(release_id=key, progress=progress))
        releases[key] = after.model_copy(update={"progress": progress})


def _moved(release: Release, event: Event[Any]) -> Release:
    """Return a release after an event, one of the registry's own, too."""
    data, changes = event.data, {}
    received = Input(event.id, event.time, data, sender=event.sender)
    release = record(release, received, event.time) or release
    if isinstance(data, f.VersionRegistered):
        changes = {"manifest": data.manifest, "times": {**release.times, "registered": event.time}}
    elif isinstance(data, f.VariantStaged) and release.turn is None:
        changes = {"turn": _turn(data)}
    elif isinstance(data, f.TrafficRequested):
        key = f"traffic.requested:{weight_key(data.weight_ratio) if data.weight_ratio else 'shadow'}"
        changes = {"emitted": {**release.emitted, key: event.time}}
    elif type(data) in _ASKED:
        changes = {"emitted": {**release.emitted, _ASKED[type(data)]: event.time}}
    elif isinstance(data, f.ReleaseFinished):
        changes = {"finished": data, "emitted": {**release.emitted, "release.finished": event.time}}
    return release.model_copy(update=changes)


def _turn(staged: f.VariantStaged) -> TurnGranted:
    baseline = Deployable.model_validate({name: getattr(staged.baseline, name) for name in Deployable.model_fields})
    return TurnGranted(baseline=baseline, epoch=0, first=baseline.target.version == 0)


def _progressed(event: Event[Any], data: f.ReleaseProgressed) -> Event[Any]:
    return Event[f.ReleaseProgressed](
        id=f"{event.id}-progress",
        source=source_of("registry"),
        type=data.TYPE,
        subject=event.subject,
        time=event.time,
        correlationid=data.release_id,
        causationid=event.id,
        data=data,
    )
