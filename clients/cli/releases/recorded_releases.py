"""The recorded releases of models, and checkpoints without a release."""

import asyncio
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from nats.js import JetStreamContext
from nats.js.api import DeliverPolicy

from clients.cli.events.event_log import EventFilter, parse, read_history
from clients.cli.events.last_events import last_event
from clients.cli.reading import RecordsOfModels, last_message, own_models, read_messages
from clients.cli.releases.names import RELEASE_ID, Name
from clients.cli.releases.serving import read_route
from clients.training.releases import refused_progress
from clients.training.run import Published
from contracts.envelope import Event
from contracts.facts import (
    CanaryAssessed,
    CheckpointRejected,
    Fact,
    ReleaseOpened,
    RollbackCompleted,
    ShadowAssessed,
    VariantBenchmarked,
    VariantEvaluated,
)
from contracts.facts.progress import ReleaseProgress, StepProgress
from contracts.recorded_releases import RecordedRelease, ReleasesOfModel
from contracts.services import INBOX
from contracts.vocabulary import Contract, Digest, Instant
from decisions.access.bus_permissions import subjects_about

BUCKET: Final = "releases"
_IDS: Final = re.compile(rf"\.{RELEASE_ID.pattern}$")
_ENDS: Final = EventFilter(("checkpoint.rejected", "rollback.completed"))
_EVIDENCE: Final[dict[str, type[Fact]]] = {"canary": CanaryAssessed, "shadow": ShadowAssessed}
_SAME_TIME: Final = timedelta(milliseconds=1)
"""Maximum difference by which the client of the bus rounds a time."""


@dataclass(frozen=True)
class Release:
    """A release, or a checkpoint without a release.

    Attributes:
        progress: Steps and outcome.
        source_id: Id of the announcement of the checkpoint.
        opened: The inputs of the release; None for a checkpoint without a release.
        rolled_back: A sentence about the rollback of the promoted version; empty without a rollback.
        benchmarks: Benchmarks of the variants.
        evaluated: Evaluation of the chosen variant.
        asked: Digest of the version that waits for approval.
    """

    progress: ReleaseProgress
    source_id: str
    opened: ReleaseOpened | None = None
    rolled_back: str = ""
    benchmarks: tuple[VariantBenchmarked, ...] = ()
    evaluated: VariantEvaluated | None = None
    asked: Digest | None = None


class _Waiting(Contract):
    event_id: str
    correlation_id: str
    stored_at: Instant
    reason: str = ""


class _Announcements(Contract):
    """The fields of the registry's record of a model's announcements that commands read."""

    waiting: tuple[_Waiting, ...] = ()
    last_sequence: int = 0
    last_stored_at: Instant | None = None


def _release(recorded: RecordedRelease) -> Release:
    return Release(
        recorded.progress,
        recorded.opened.source_event_id,
        recorded.opened,
        benchmarks=tuple(recorded.benchmarked.values()),
        evaluated=recorded.evaluated,
        asked=recorded.asked,
    )


async def recorded_releases(js: JetStreamContext, name: Name) -> list[Release]:
    """Return the candidates for a name without a role.

    These are the release with an id, or the releases of a model in progress and the release of the named version, by
    default of the newest version.
    """
    return sorted(await _read(js, await _keys(js, name)), key=_age)


async def recorded_release(js: JetStreamContext, model: str, release_id: str) -> Release | None:
    """Return a release of a model by its id; None without a record."""
    return next(iter(await _read(js, [f"{model}.{release_id}"])), None)


async def read_releases(js: JetStreamContext, model: str | None, *, every: bool = False) -> list[Release]:
    """Return releases, and checkpoints without a release, the newest last.

    Args:
        js: The bus.
        model: The model; None for all models.
        every: Whether all releases of all models are read; by default the newest of each model and all in progress.
    """
    whole = every or model is not None
    if whole:
        records = RecordsOfModels(js, BUCKET, RecordedRelease, only=_IDS)
        found = await (records.all() if model is None else records.matching(f"{model}.*"))
        releases = [_release(record) for record in found.values()]
    else:
        models = await _of_models(js, ReleasesOfModel, "model")
        releases = await _read(js, [f"{name}.{each}" for name, record in models.items() for each in record.ids()])
    history = [logged.event for logged in await read_history(js, model, _ENDS)]
    refused = [_refused(event) for event in history if event.origin == "registry"]
    if not whole:
        newest = {each.progress.model: each for each in sorted((*releases, *refused), key=_age)}
        refused = [each for each in refused if newest[each.progress.model] is each]
    waiting = await _waiting(js, model)
    shown = [await _with_evidence(js, await _with_rollback(js, release, history)) for release in releases]
    return sorted((*shown, *refused, *waiting), key=_age)


def pick(releases: Iterable[Release], name: Name) -> Release | None:
    """Return the release of a name in a list, oldest first; for a model the last. None without a release."""
    asked = {"release_id": name.release_id, "version": name.version, "model": name.model or None}
    given = {field: value for field, value in asked.items() if value is not None}
    named = [each for each in releases if all(getattr(each.progress, key) == value for key, value in given.items())]
    return named[-1] if named else None


async def newest_release(
    js: JetStreamContext, name: Name, announced: "tuple[int, datetime, Release] | None"
) -> Release | None:
    """Return the release of a name; of a model the newest release or a newer checkpoint. None without a release.

    Args:
        js: The bus.
        name: The name, without a role.
        announced: The last announcement of the model, from `last_announced`.
    """
    releases = await recorded_releases(js, name)
    if name.version is not None:
        releases = [release for release in releases if release.progress.version == name.version]
    elif name.release_id is None:
        record = await RecordsOfModels(js, BUCKET, _Announcements).get(f"{name.model}.announcements")
        if record is not None and record.waiting:
            return _announced(name.model, record.waiting[-1])
        refused = await last_event(js, CheckpointRejected, name.model, sender="registry")
        releases += [] if refused is None else [_refused(refused)]
        if announced is not None and not _is_settled(announced, record, releases):
            return announced[2]
    found = max(releases, key=_age, default=None)
    if found is None or found.progress.outcome != "promoted":
        return found and await _with_evidence(js, found)
    rollback = await last_event(js, RollbackCompleted, found.progress.model)
    return await _with_rollback(js, found, [] if rollback is None else [rollback])


async def release_of_checkpoint(js: JetStreamContext, published: Published) -> Release | None:
    """Return the newest release of a checkpoint, or the checkpoint before its release.

    None until the registry has received the announcement.
    """
    model = published.model
    record = await RecordsOfModels(js, BUCKET, _Announcements).get(f"{model}.announcements")
    waiting = [_announced(model, each) for each in record.waiting] if record is not None else []
    found = of_checkpoint((*waiting, *await recorded_releases(js, Name(model))), published)
    found = found or of_checkpoint(await read_releases(js, model), published)
    return found[-1] if found else None


def of_checkpoint(releases: Iterable[Release], published: Published) -> list[Release]:
    """Return the releases of a published checkpoint, and the checkpoint itself if it has no release."""
    return [
        each
        for each in releases
        if each.source_id == published.event_id or (each.opened is not None and published.is_released_by(each.opened))
    ]


async def last_announced(js: JetStreamContext, model: str) -> tuple[int, datetime, Release] | None:
    """Return sequence, time and checkpoint of a model's last announcement; None without an announcement."""
    (subject,) = subjects_about(INBOX, model)
    for message in await read_messages(js, INBOX, subject, most=1, deliver_policy=DeliverPolicy.LAST):
        event, about = parse(message.subject, message.data), message.metadata
        if event is not None:
            waiting = _Waiting(event_id=event.id, correlation_id=event.correlationid, stored_at=about.timestamp)
            return about.sequence.stream, about.timestamp, _announced(model, waiting)
    return None


def _is_settled(
    announced: tuple[int, datetime, Release], record: _Announcements | None, releases: Iterable[Release]
) -> bool:
    """Return whether the registry has received or refused an announcement."""
    sequence, at, checkpoint = announced
    if any(release.source_id == checkpoint.source_id for release in releases):
        return True
    last = record.last_stored_at if record is not None else None
    return record is not None and last is not None and sequence <= record.last_sequence and at - last <= _SAME_TIME


async def _keys(js: JetStreamContext, name: Name) -> list[str]:
    if name.release_id is not None:
        models = await own_models(js)
        if models is not None:
            return [f"{model}.{name.release_id}" for model in models]
        prefix = f"$KV.{BUCKET}."
        message = await last_message(js, f"KV_{BUCKET}", f"{prefix}*.{name.release_id}")
        return [] if message is None else [message.subject.removeprefix(prefix)]
    record = await RecordsOfModels(js, BUCKET, ReleasesOfModel).get(f"{name.model}.model")
    return [] if record is None else [f"{name.model}.{release_id}" for release_id in record.ids(name.version)]


async def _read(js: JetStreamContext, keys: Sequence[str]) -> list[Release]:
    records = RecordsOfModels(js, BUCKET, RecordedRelease)
    found = await asyncio.gather(*(records.get(key) for key in keys))
    return [_release(record) for record in found if record is not None]


async def _of_models(js: JetStreamContext, kind: type[Any], name: str) -> dict[str, Any]:
    """Return the records with a name of all models that this identity may read, by model."""
    records, own = RecordsOfModels(js, BUCKET, kind), await own_models(js)
    if own is None:
        found = await records.matching(f"*.{name}")
        return {key.removesuffix(f".{name}"): record for key, record in found.items()}
    read = [(model, await records.get(f"{model}.{name}")) for model in own]
    return {model: record for model, record in read if record is not None}


async def _waiting(js: JetStreamContext, model: str | None) -> list[Release]:
    """Return the checkpoints that wait for admission."""
    if model is None:
        records = await _of_models(js, _Announcements, "announcements")
    else:
        record = await RecordsOfModels(js, BUCKET, _Announcements).get(f"{model}.announcements")
        records = {} if record is None else {model: record}
    return [_announced(name, each) for name, record in records.items() for each in record.waiting]


def _announced(model: str, waiting: _Waiting) -> Release:
    progress = ReleaseProgress(
        model=model,
        release_id=None,
        version=None,
        run_id=waiting.correlation_id,
        opened_at=waiting.stored_at,
        state="admitting",
        steps=(StepProgress(name="admitted", title="admitting", state="running", detail=waiting.reason),),
    )
    return Release(progress, waiting.event_id)


def _refused(event: Event[CheckpointRejected]) -> Release:
    return Release(refused_progress(event), event.causationid or "")


async def _with_evidence(js: JetStreamContext, release: Release) -> Release:
    """Return a release with the present results of its canary or shadow."""
    progress = release.progress
    name = next((step.name for step in progress.steps if step.state == "running" and step.name in _EVIDENCE), None)
    event = await last_event(js, _EVIDENCE[name], progress.model) if name is not None else None
    if event is None or event.correlationid != progress.release_id or event.data.verdict != "inconclusive":
        return release
    shown = f"{event.data.requests} requests, {event.data.requests_needed} more needed"
    steps = tuple(
        step.model_copy(update={"detail": "; ".join(filter(None, (step.detail, shown)))}) if step.name == name else step
        for step in progress.steps
    )
    return replace(release, progress=progress.model_copy(update={"steps": steps}))


async def _with_rollback(js: JetStreamContext, release: Release, history: Iterable[Event[Any]]) -> Release:
    """Return a release with the rollback of its promoted version, unless the version is active again."""
    progress = release.progress
    for event in history:
        failed = event.data.failed if isinstance(event.data, RollbackCompleted) else None
        if failed is None or (failed.model, failed.version) != (progress.model, progress.version):
            continue
        if progress.outcome == "promoted" and progress.finished_at is not None and event.time > progress.finished_at:
            release = replace(release, rolled_back=describe_rollback(event))
    route = await read_route(js, progress.model) if release.rolled_back else None
    serves = route is not None and route.active is not None and route.active.target.version == progress.version
    return replace(release, rolled_back="") if serves else release


def describe_rollback(event: Event[RollbackCompleted]) -> str:
    """Return a sentence about a rollback: targets, time and actor."""
    data = event.data
    cause = "automatically" if data.mode == "automatic" else "by an operator"
    to = f" to {data.to}" if data.to is not None else ""
    when = data.timeline.switched_at or event.time
    return f"{data.failed} was rolled back{to} {cause} at {when:%Y-%m-%d %H:%M:%S} UTC."


def _age(release: Release) -> tuple[datetime, int]:
    return release.progress.opened_at, release.progress.version or 0
