"""What is put under lock, for how long, and when an alert is raised: pure decisions about locked objects."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

from contracts.envelope import derived_id
from contracts.facts import AlertRaised, AlertResolved
from contracts.records import OutboxEntry, OutboxRecord, outbox_entry
from contracts.routes import Route
from contracts.vocabulary import Contract, Deployable, Instant, ModelName, Target
from decisions.alerts import RUNBOOKS
from decisions.object_versions import Disturbance

A = TypeVar("A", AlertRaised, AlertResolved)
Kept = Mapping[int, Sequence[Deployable]]
"""What is kept of a model: by version, the targets of it."""
MOST_NAMED = 5
"""How many objects a message names."""


class KeptVersion(Contract):
    """What is known of a version's locks.

    Attributes:
        objects: How many of its objects are under lock.
        reason: Why it is not under lock, or not wholly; empty if it is.
    """

    version: int
    objects: int = 0
    reason: str = ""


class StoreAlert(Contract):
    """An open alert about objects or records of a version."""

    target: Target
    raised_at: Instant
    message: str

    @property
    def alert_id(self) -> str:
        """Stable name of the alert: one per version and occurrence."""
        return f"store-{self.target}-{self.raised_at:%Y%m%dT%H%M%S}"


class ModelLocks(OutboxRecord):
    """The locks of a model's versions: `<model>.locks`.

    Attributes:
        owner: The process that looks at them now.
        leased_until: Until when no other one does.
    """

    model: ModelName
    owner: str = ""
    leased_until: Instant | None = None
    versions: tuple[KeptVersion, ...] = ()
    alerts: tuple[StoreAlert, ...] = ()


def kept_versions(route: Route | None) -> Kept:
    """Return what is kept under lock of a model: what serves, is on trial or suspended, or could be rolled back to."""
    if route is None:
        return {}
    canary = route.canary.served if route.canary is not None else None
    kept: dict[int, dict[Target, Deployable]] = {}
    shadow = route.shadow.served if route.shadow is not None else None
    suspended = (entry.served for entry in route.suspended)
    for served in (route.active, canary, shadow, route.previous, *route.history, *suspended):
        if served is not None:
            kept.setdefault(served.target.version, {}).setdefault(served.target, served)
    return {version: tuple(targets.values()) for version, targets in kept.items()}


def claim(record: ModelLocks, owner: str, now: datetime, lease: timedelta) -> ModelLocks:
    """Return the record with a lease for a process, if no other one has it; check `owner` of what is written.

    A clock that jumps ends a lease early or keeps it for long. Two owners do the same work twice and harm nothing; a
    lease that ends later than one that begins now would is not believed.
    """
    until = record.leased_until
    if until is not None and record.owner != owner and now < until <= now + lease:
        return record
    return record.model_copy(update={"owner": owner, "leased_until": now + lease})


def open_alerts(record: ModelLocks, disturbed: Mapping[Target, Sequence[Disturbance]], now: datetime) -> ModelLocks:
    """Return the record with an alert about each version whose objects were disturbed; one that is open stays."""
    opened = {alert.target for alert in record.alerts}
    fresh = [
        StoreAlert(target=target, raised_at=now, message=_message(target, disturbances))
        for target, disturbances in disturbed.items()
        if disturbances and target not in opened
    ]
    entries = tuple(alert_entry(AlertRaised, alert, alert.message, now) for alert in fresh)
    update = {"alerts": (*record.alerts, *fresh), "outbox": (*record.outbox, *entries)}
    return record.model_copy(update=update) if fresh else record


def close_alerts(record: ModelLocks, disturbed: Iterable[Target], now: datetime) -> ModelLocks:
    """Return the record without the alerts about versions that are not disturbed any more, or not kept."""
    still = set(disturbed)
    over = [alert for alert in record.alerts if alert.target not in still]
    message = "Readers get every locked object of {} again, or it is not kept any more."
    entries = tuple(alert_entry(AlertResolved, alert, message.format(alert.target), now) for alert in over)
    kept = tuple(alert for alert in record.alerts if alert.target in still)
    return record.model_copy(update={"alerts": kept, "outbox": (*record.outbox, *entries)}) if over else record


def note_versions(record: ModelLocks, versions: Iterable[KeptVersion]) -> ModelLocks:
    """Return the record with what is known of these versions, and nothing of others."""
    return record.model_copy(update={"versions": tuple(sorted(versions, key=lambda version: version.version))})


def add_unkept(versions: Iterable[KeptVersion], unkept: Iterable[tuple[Target, Disturbance]]) -> list[KeptVersion]:
    """Return what is known of versions, with the objects whose retentions cannot be extended."""
    of: dict[int, list[Disturbance]] = {}
    for target, what in unkept:
        of.setdefault(target.version, []).append(what)
    return [
        version.model_copy(update={"reason": " ".join(filter(None, (version.reason, _named(of[version.version]))))})
        if version.version in of
        else version
        for version in versions
    ]


def note_version(record: ModelLocks, version: KeptVersion) -> ModelLocks:
    """Return the record with what is known of one version."""
    others = (earlier for earlier in record.versions if earlier.version != version.version)
    return note_versions(record, (*others, version))


def alert_fact(fact: type[A], alert: StoreAlert, message: str) -> A:
    """Return the fact that raises or resolves an alert."""
    return fact(
        alert_id=alert.alert_id,
        kind="store",
        severity="critical",
        target=alert.target,
        runbook=RUNBOOKS["store"],
        message=message,
        raised_at=alert.raised_at,
    )


def alert_entry(fact: type[A], alert: StoreAlert, message: str, now: datetime) -> OutboxEntry:
    """Return the fact that raises or resolves an alert, as a record publishes it."""
    return outbox_entry(
        alert_fact(fact, alert, message),
        model=alert.target.model,
        cause_id=None,
        correlation_id=alert.alert_id,
        decided_at=now,
        id=derived_id(alert.alert_id, fact.TYPE),
    )


def _message(target: Target, disturbances: Sequence[Disturbance]) -> str:
    return f"Objects of {target} under lock: {_named(disturbances)}. Reads go on from the locked versions."


def _named(disturbances: Sequence[Disturbance]) -> str:
    named = "; ".join(disturbance.describe() for disturbance in disturbances[:MOST_NAMED])
    return f"{named}; {len(disturbances) - MOST_NAMED} more" if len(disturbances) > MOST_NAMED else named
