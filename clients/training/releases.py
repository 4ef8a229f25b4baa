"""Reads of releases with measurements and evaluations, and of open alerts; waits for the end of a release."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from clients.training.bus import Reader, reading
from clients.training.connection import Connection
from clients.training.errors import ReadError
from clients.training.run import Published
from clients.training.running import run_to_end
from contracts.envelope import Event, nats_subject
from contracts.facts import CheckpointRejected, VariantBenchmarked, VariantEvaluated
from contracts.facts.progress import ReleaseProgress, StepProgress
from contracts.facts.watch import AlertKind, Severity
from contracts.recorded_releases import RecordedRelease, ReleasesOfModel
from contracts.services import EVENTS
from contracts.vocabulary import Contract, Instant, Target, Variant

T = TypeVar("T")
EVERY_S = 1.0
REGISTRY = "registry"
OnChange = Callable[[ReleaseProgress], None]


@dataclass(frozen=True)
class Release:
    """A release, or a checkpoint refused at admission.

    Attributes:
        progress: Its steps, outcome, code and reason.
        benchmarks: The measurements of each variant.
        evaluation: Scores of its answers and of the active version's; None without an evaluation.
    """

    progress: ReleaseProgress
    benchmarks: Mapping[Variant, VariantBenchmarked] = field(default_factory=dict)
    evaluation: VariantEvaluated | None = None

    @property
    def promoted(self) -> bool:
        """Whether the version took all traffic."""
        return self.progress.outcome == "promoted"


class Alert(Contract):
    """An alert of the monitor about a version.

    Attributes:
        value, limit: The measured value and the limit of the trigger.
        drill: The drill that caused the alert; None without a drill.
    """

    alert_id: str
    kind: AlertKind
    severity: Severity
    target: Target
    trigger: str | None = None
    value: float | None = None
    limit: float | None = None
    requests: int | None = None
    raised_at: Instant
    message: str = ""
    drill: str | None = None
    open: bool = True


class _Watched(Contract):
    """The fields of the monitor's record of a model that the client reads."""

    alerts: dict[str, Alert] = Field(default_factory=dict)


def wait_for_release(
    published: Published,
    *,
    timeout_s: float | None = None,
    on_change: OnChange | None = None,
    connection: Connection | None = None,
) -> Release:
    """Return the release of a published checkpoint after its end.

    Args:
        published: The result of `publish_checkpoint`.
        timeout_s: Maximum wait in seconds; None without a limit.
        on_change: Called with the progress after each change.
        connection: The address of Slipway; by default from the `SLIPWAY_*` environment variables.

    Raises:
        ReadError: The credential may not read (`slipway keys add NAME --role publisher --role viewer`), or the bus does
            not answer.
        TimeoutError: The release has not ended within the limit.
    """
    return run_to_end(_wait(published, timeout_s, on_change, connection))


def read_release(model: str, version: int | None = None, *, connection: Connection | None = None) -> Release | None:
    """Return the release of a version of a model, by default the newest release; None without a release.

    Raises:
        ReadError: As `wait_for_release`.
    """

    async def read(reader: Reader) -> Release | None:
        record = await _record(reader, "releases", f"{model}.model", ReleasesOfModel)
        found = [] if record is None else await _releases(reader, model, record.ids(version))
        named = [each for each in found if version in (None, each.progress.version)]
        return _of(max(named, key=_age)) if named else None

    return run_to_end(_once(connection, read))


def read_alerts(model: str, *, connection: Connection | None = None) -> list[Alert]:
    """Return the open alerts of the monitor about versions of a model in production, the oldest first.

    Raises:
        ReadError: As `wait_for_release`.
    """

    async def read(reader: Reader) -> list[Alert]:
        record = await _record(reader, "alerts", f"production.{model}", _Watched)
        alerts = [] if record is None else record.alerts.values()
        return sorted((alert for alert in alerts if alert.open), key=lambda alert: alert.raised_at)

    return run_to_end(_once(connection, read))


async def _once(connection: Connection | None, read: Callable[[Reader], Awaitable[T]]) -> T:
    async with reading(connection or Connection.from_environment()) as reader:
        return await read(reader)


async def _wait(
    published: Published, timeout_s: float | None, on_change: OnChange | None, connection: Connection | None
) -> Release:
    ends_s = None if timeout_s is None else time.monotonic() + timeout_s
    seen: ReleaseProgress | None = None
    async with reading(connection or Connection.from_environment()) as reader:
        search = _Search(reader, published)
        while True:
            release = await search.find()
            if release is not None and release.progress != seen:
                seen = release.progress
                if on_change is not None:
                    on_change(seen)
            if release is not None and release.progress.outcome is not None:
                return release
            if ends_s is not None and time.monotonic() >= ends_s:
                state = "no release yet" if release is None else release.progress.state
                message = f"The release of {published.model} had not ended after {timeout_s:g} s: {state}."
                raise TimeoutError(message)
            await asyncio.sleep(EVERY_S)


class _Search:
    """Finds the newest release of a checkpoint; releases of other checkpoints are read once."""

    def __init__(self, reader: Reader, published: Published) -> None:
        self._reader = reader
        self._published = published
        self._others: set[str] = set()

    async def find(self) -> Release | None:
        """Return the release, or the refused checkpoint without a release; None while neither is known."""
        model = self._published.model
        record = await _record(self._reader, "releases", f"{model}.model", ReleasesOfModel)
        ids = set() if record is None else {*record.open, *record.reservations} - self._others
        found = await _releases(self._reader, model, tuple(ids))
        same = [each for each in found if self._published.is_released_by(each.opened)]
        self._others |= {each.opened.release_id for each in found if each not in same}
        return _of(max(same, key=_age)) if same else await _refusal(self._reader, self._published)


async def _refusal(reader: Reader, published: Published) -> Release | None:
    """Return a checkpoint that was refused before a release began; None without a refusal."""
    data = await reader.last(EVENTS, nats_subject(CheckpointRejected.TYPE, published.model, REGISTRY))
    event = None if data is None else Event[CheckpointRejected].model_validate_json(data)
    if event is None or event.causationid != published.event_id:
        return None
    return Release(refused_progress(event))


def refused_progress(event: Event[CheckpointRejected]) -> ReleaseProgress:
    """Return the progress of a checkpoint that was refused before a release began."""
    return ReleaseProgress(
        model=event.subject,
        release_id=None,
        version=None,
        run_id=event.correlationid,
        opened_at=event.time,
        state="rejected",
        outcome="rejected",
        code=event.data.code,
        reason=event.data.reason,
        finished_at=event.time,
        steps=(StepProgress(name="admitted", title="admitted", state="failed", at=event.time, detail=event.data.code),),
    )


def _of(recorded: RecordedRelease) -> Release:
    return Release(recorded.progress, recorded.benchmarked, recorded.evaluated)


def _age(recorded: RecordedRelease) -> Any:
    return recorded.progress.opened_at


async def _releases(reader: Reader, model: str, ids: tuple[str, ...]) -> list[RecordedRelease]:
    records = [await _record(reader, "releases", f"{model}.{release_id}", RecordedRelease) for release_id in ids]
    return [record for record in records if record is not None]


async def _record(reader: Reader, bucket: str, key: str, kind: type[T]) -> T | None:
    data = await reader.last(f"KV_{bucket}", f"$KV.{bucket}.{key}")
    try:
        return None if data is None else kind.model_validate_json(data)  # type: ignore[attr-defined]
    except ValidationError as error:
        message = f"The record {bucket}/{key} cannot be read: the client is of another version ({error})."
        raise ReadError(message) from error
