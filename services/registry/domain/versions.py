"""The record of a model: its version numbers, its open releases, and the release in progress."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from pydantic import Field

from contracts.envelope import Event, derived_id
from contracts.evaluations.results import Anchor
from contracts.facts import ApprovalGranted, CheckpointReady, DeploymentChanged, ReleaseFinished, ReleaseOpened
from contracts.manifests import ApprovalRecord, BaseManifest, DeploymentRecord, VersionManifest
from contracts.records import OutboxRecord, outbox_entry
from contracts.routes import Route, Suspended
from contracts.vocabulary import Contract, Deployable, Instant, ModelName, Target, digest_of_json
from decisions.evidence.alerts import PlainAlert
from decisions.releases.plan import required_attestations
from services.registry.domain import admission, gates
from services.registry.domain.record import Release, TurnGranted


class StoreAlert(Contract):
    """An open alert about a version's stored objects or records."""

    target: Target
    raised_at: Instant
    message: str

    @property
    def about(self) -> PlainAlert:
        """The alert to publish: one per version and occurrence."""
        alert_id = f"store-{self.target}-{self.raised_at:%Y%m%dT%H%M%S}"
        return PlainAlert(alert_id, "store", "critical", self.target, self.raised_at)


REMEMBERED: Final = 64
"""Reservations kept for a model's newest releases."""


ANCHORS: Final = 16
"""Maximum evaluation anchors of a model; a changed set of rows starts a new anchor."""


class ModelRecord(OutboxRecord):
    """The record of a model. Version numbers only rise, and no reservation is withdrawn.

    Attributes:
        reservations: Version numbers of the open and the newest ended releases.
        open: Releases not known to be finished.
        in_progress: The release that may be staged and promoted.
        queue: Releases that wait for it to end.
        opening: The last admission in full; recreates its release after a crash between the two writes.
        alerts: Alerts, open until a release of a later version was registered and ended.
        anchors: First versions promoted with each evaluation, newest `ANCHORS` only.
    """

    model: ModelName
    next_version: int = 1
    reservations: dict[str, int] = Field(default_factory=dict)
    open: tuple[str, ...] = ()
    in_progress: str | None = None
    queue: tuple[str, ...] = ()
    opening: ReleaseOpened | None = None
    alerts: tuple[StoreAlert, ...] = ()
    anchors: tuple[Anchor, ...] = ()


@dataclass(frozen=True)
class StoredVersions:
    """A model's versions in the store.

    Attributes:
        highest: Highest version number; 0 if there is none.
        releases: Version numbers of the newest signed versions, by release.
        newest: A target of the newest signed version.
    """

    highest: int = 0
    releases: Mapping[str, int] = field(default_factory=dict)
    newest: Target | None = None


def rebuild(
    model: str,
    stored: StoredVersions,
    opened: ReleaseOpened | None,
    releases: Sequence[Release],
    *,
    route: Route | None,
    now: datetime,
) -> ModelRecord:
    """Return a model's record: empty for a new model, else rebuilt from store and log, with an alert.

    Args:
        model: The model.
        stored: Its versions in the store.
        opened: Its last opened release in the event log.
        releases: The existing records of its releases.
        route: Its route.
        now: Time of the alert.
    """
    record = ModelRecord(model=model)
    last = {opened.release_id: opened.version} if opened is not None else {}  # may be missing in the store
    numbers = {**last, **stored.releases, **{release.id: release.version for release in releases}}
    highest = max(stored.highest, *numbers.values(), 0)
    if highest == 0:
        return record
    open_releases = [release for release in releases if release.finished is None]
    under_way = tuple(release.id for release in open_releases)
    message = (
        f"The record of the versions of {model} was lost (bucket releases). Known again are {highest} as the last "
        f"version, {len(numbers)} releases and {len(under_way)} under way. Other releases under way and announcements "
        "that waited are not: publish their checkpoints again with a higher attempt. Nor are the earlier publishers of "
        "weights, whom a policy may keep from approving them. Anchors of evaluations are those of the known releases; "
        "without one, the next version that is promoted becomes it."
    )
    canary = route.canary if route is not None else None
    if canary is not None and not any(release.is_ours(canary.served.target) for release in open_releases):
        served = canary.served.target
        message += (
            f" {served} still takes {canary.weight_ratio:.0%} of the requests as canary of a release that is not "
            f"known: end it with slipway rollback {model} --target {served} --reason TEXT."
        )
    target = stored.newest or Target(model=model, version=highest, variant="bf16")
    update = {
        "next_version": highest + 1,
        "reservations": dict(sorted(numbers.items(), key=lambda known: known[1])),
        "open": under_way,
        "in_progress": next((release.id for release in open_releases if release.turn is not None), None),
    }
    record = record.model_copy(update=update)
    for release in sorted(releases, key=lambda release: release.version):
        record = note_anchors(record, release)
    return _alerted(record, target, message, now)


def _alerted(record: ModelRecord, target: Target, message: str, now: datetime) -> ModelRecord:
    alert = StoreAlert(target=target, raised_at=now, message=message)
    entry = alert.about.entry("raised", message, now)
    return record.model_copy(update={"alerts": (*record.alerts, alert), "outbox": (*record.outbox, entry)})


def note_end(record: ModelRecord, release: Release, now: datetime) -> ModelRecord:
    """Add an alert to the record if a release ended because the store could not read an object.

    The end of a registered release resolves the alerts of earlier versions.
    """
    ended = release.finished
    if ended is not None and ended.code == "object_unreadable":
        target = Target(model=release.model, version=release.version, variant=gates.requested_variants(release)[0])
        is_open = any(alert.target == target for alert in record.alerts)
        message = f"Release {release.id} ended at an object that the store does not read: {ended.reason}"
        return record if is_open else _alerted(record, target, message, now)
    if ended is None or release.manifest is None:
        return record
    message = f"Release {release.id} was registered as {record.model}@v{release.version}, and ended as {ended.outcome}."
    resolved = [alert for alert in record.alerts if alert.target.version < release.version]
    entries = tuple(alert.about.entry("resolved", message, now) for alert in resolved)
    kept = tuple(alert for alert in record.alerts if alert not in resolved)
    return record.model_copy(update={"alerts": kept, "outbox": (*record.outbox, *entries)}) if entries else record


def note_anchors(record: ModelRecord, release: Release) -> ModelRecord:
    """Make a promoted release the anchor of its evaluations that have none.

    Evaluations with too few valid rows set no anchor: later versions could not be compared.
    """
    ended, evaluated = release.finished, release.evaluated
    if ended is None or ended.outcome != "promoted" or evaluated is None:
        return record
    known = {anchor.basis: anchor for anchor in record.anchors}
    for result in evaluated.results:
        anchor = known.pop(result.basis or "", None)
        if result.basis is not None and result.anchor is None and result.asked == result.available > 2 * result.void:
            anchor = Anchor(basis=result.basis, target=evaluated.target, report=evaluated.report)
        if anchor is not None:
            known[anchor.basis] = anchor
    return record.model_copy(update={"anchors": tuple(known.values())[-ANCHORS:]})


def end_lost(record: ModelRecord, release_id: str, cause_id: str, now: datetime) -> ModelRecord:
    """End a release whose own record was lost; unchanged if its version is unknown.

    The end lets other services free what they hold for the release, such as its staging lease.
    """
    version = record.reservations.get(release_id)
    if version is None or (record.opening is not None and record.opening.release_id == release_id):
        return record  # the sweeper recreates the last admission
    finished = ReleaseFinished(
        release_id=release_id,
        model=record.model,
        version=version,
        outcome="aborted",
        returned_by=None,
        reason=f"The record of release {release_id} was lost. Publish its checkpoint again with a higher attempt.",
    )
    entry = outbox_entry(
        finished,
        model=record.model,
        cause_id=cause_id,
        correlation_id=release_id,
        decided_at=now,
        id=derived_id(release_id, ReleaseFinished.TYPE, "lost"),
    )
    return remove(record, release_id).model_copy(update={"outbox": (*record.outbox, entry)})


def find_redelivered(record: ModelRecord, ready: CheckpointReady, event_id: str) -> str | None:
    """Return the release of the last admission if this event is a redelivery of its source event.

    A policy that was stored or changed since does not make it another release. Another event with the same ID is no
    redelivery and is admitted or rejected by itself.
    """
    last = record.opening
    if last is None or last.source_event_id != event_id:
        return None
    announced = ready.model_copy(
        update={"policy": ready.policy or last.policy, "variants": tuple(dict.fromkeys(ready.variants))}
    )
    same = all(getattr(announced, name) == getattr(last, name) for name in CheckpointReady.model_fields)
    return last.release_id if same else None


def reserve(record: ModelRecord, opened: ReleaseOpened) -> ModelRecord:
    """Reserve the next version number for a release; `opened` must carry that number.

    Old reservations are dropped once their releases have ended; the release records keep the numbers.
    """
    if opened.release_id in record.reservations:
        return record
    kept = {*list(record.reservations)[1 - REMEMBERED :], *record.open, *record.queue, record.in_progress}
    before = {release_id: version for release_id, version in record.reservations.items() if release_id in kept}
    update = {
        "next_version": record.next_version + 1,
        "reservations": {**before, opened.release_id: record.next_version},
        "open": (*record.open, opened.release_id),
        "opening": opened,
    }
    return record.model_copy(update=update)


def plan_return(record: ModelRecord, entry: Suspended, original: ReleaseOpened) -> ReleaseOpened | None:
    """Return the release that brings a suspended version back; None if the version has an open release."""
    release_id = admission.release_id(digest_of_json([original.release_id, entry.returned_by]), original.attempt)
    target = entry.served.target
    is_open = any(record.reservations.get(known) == target.version for known in record.open if known != release_id)
    if is_open:
        return None
    returns = Deployable(**{name: getattr(entry.served, name) for name in Deployable.model_fields})
    update = {"release_id": release_id, "source_event_id": entry.returned_by, "returns": returns}
    return original.model_copy(update=update)


def add_return(record: ModelRecord, opened: ReleaseOpened) -> ModelRecord:
    """Add a release that brings a version back, under the version's number."""
    if opened.release_id in record.reservations:
        return record
    update = {
        "reservations": {**record.reservations, opened.release_id: opened.version},
        "open": (*record.open, opened.release_id),
    }
    return record.model_copy(update=update)


def claim(record: ModelRecord, release_id: str) -> ModelRecord:
    """Put an open release in progress, or into the queue if another is; no change if already there."""
    if record.in_progress == release_id or release_id in record.queue or release_id not in record.open:
        return record
    if record.in_progress is None:
        return record.model_copy(update={"in_progress": release_id})
    return record.model_copy(update={"queue": (*record.queue, release_id)})


def remove(record: ModelRecord, release_id: str, *, published: bool = True) -> ModelRecord:
    """Remove a finished release; the lowest queued version goes in progress.

    A release with unpublished facts stays in `open`, so that the sweeper publishes them.
    """
    queue = tuple(queued for queued in record.queue if queued != release_id)
    in_progress = record.in_progress
    if in_progress == release_id:
        in_progress = min(queue, key=lambda release_id: record.reservations[release_id], default=None)
        queue = tuple(queued for queued in queue if queued != in_progress)
    still_open = tuple(other for other in record.open if other != release_id or not published)
    return record.model_copy(update={"open": still_open, "in_progress": in_progress, "queue": queue})


def decide_superseded(record: ModelRecord, newer: Release, older: Release) -> bool:
    """Return whether an older release yields to a newer queued release; a returning version always yields."""
    ahead = older.id == record.in_progress or older.id in record.queue
    makes_way = older.policy.on_newer == "supersede" or older.opened.returns is not None
    return ahead and older.version < newer.version and makes_way


def decide_turn(
    release: Release, route: Route | None, base: BaseManifest, anchors: tuple[Anchor, ...] = ()
) -> TurnGranted:
    """Return a release's baseline: the active target, or else the base model as version 0.

    A quarantined version is no anchor.
    """
    anchors = tuple(anchor for anchor in anchors if route is None or not route.is_quarantined(anchor.target))
    if route is not None and route.active is not None:
        active = route.active
        baseline = Deployable(**{name: getattr(active, name) for name in Deployable.model_fields})
        return TurnGranted(baseline=baseline, epoch=route.epoch, first=False, anchors=anchors)
    epoch, baseline = route.epoch if route else 0, base_deployable(release.model, base)
    return TurnGranted(baseline=baseline, epoch=epoch, first=True, anchors=anchors)


def base_deployable(model: str, base: BaseManifest) -> Deployable:
    """Return the base model as version 0 of a model."""
    target = Target(model=model, version=0, variant="bf16")
    return Deployable(target=target, manifest=base.folder, weights_bytes=base.weights_bytes)


def plan_manifest(release: Release, now: datetime) -> VersionManifest | None:
    """Return the version's immutable manifest; None while variants are pending or if none passed."""
    variants = gates.registered_variants(release)
    if release.merged is None or not gates.all_quantised(release) or not variants:
        return None
    opened = release.opened
    policy = opened.policy.model_dump(mode="json")
    return VersionManifest(
        model=opened.model,
        version=opened.version,
        release_id=opened.release_id,
        release_key=opened.release_key,
        base=opened.base,
        weights=opened.weights,
        training=opened.training,
        evals=opened.evals,
        merged=release.merged.manifest,
        variants=variants,
        quantised_base=release.merged.method.quantised_base,
        serving=release.merged.serving,
        policy_digest=digest_of_json(policy),
        policy=policy,
        registered_at=now,
        attestations=required_attestations(opened.policy),
    )


def plan_approval_record(release: Release, order: Event[ApprovalGranted]) -> ApprovalRecord | None:
    """Return the record of an approval; None if its digest is no variant's of the release."""
    digest = order.data.manifest_digest
    for registered in gates.registered_variants(release):
        candidate = gates.deployable(release, registered)
        if candidate.manifest.digest == digest:
            return ApprovalRecord(
                target=candidate.target,
                manifest_digest=digest,
                release_id=release.id,
                approved_by=order.sender,
                order_id=order.id,
                reason=order.data.reason,
                approved_at=order.time,
            )
    return None


def plan_deployment_record(fact: DeploymentChanged, cause_id: str) -> DeploymentRecord | None:
    """Return the deployment record of the version whose traffic share changed; None if none did."""
    route = fact.route
    if fact.cause in ("shadow", "judge"):
        return None
    if fact.cause in ("canary", "abort"):
        share, shadow = route.canary, route.shadow
        behind = shadow.served if shadow is not None else None
        served, weight = (share.served, share.weight_ratio) if share else (behind, 0.0)
    else:
        served, weight = route.active, 1.0
    if served is None:
        return None
    return DeploymentRecord(
        target=served.target,
        epoch=route.epoch,
        cause=fact.cause,
        cause_id=cause_id,
        weight_ratio=weight,
        deployed_at=fact.at,
    )
