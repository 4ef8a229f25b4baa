"""Read the registry's records of releases, without a consumer: what an order about a release needs to know of it."""

from nats.js import JetStreamContext
from pydantic import Field

from clients.cli.names import Name
from clients.cli.reading import RecordsOfModels, last_message, own_models
from contracts.facts import ReleaseFinished, ReleaseHeld, ReleaseOpened
from contracts.vocabulary import Contract, Instant
from decisions.release_holds import HoldOrder
from decisions.release_progress import ReleaseProgress

BUCKET = "releases"


class ReleasesOfModel(Contract):
    """Of the registry's record of a model: its releases that may not have ended, and the versions of the newest."""

    open: tuple[str, ...] = ()
    reservations: dict[str, int] = Field(default_factory=dict)


class _Approval(Contract):
    sender: str


class _Hold(Contract):
    at: Instant
    event_id: str
    sender: str
    order: ReleaseHeld

    @property
    def as_order(self) -> HoldOrder:
        return HoldOrder(self.at, self.event_id, self.order.paused, self.sender, self.order.reason)


class _Release(Contract):
    """Of the registry's record of a release: what orders about it name, and change."""

    opened: ReleaseOpened
    opened_at: Instant
    approvals: dict[str, tuple[_Approval, ...]] = Field(default_factory=dict)
    hold: _Hold | None = None
    finished: ReleaseFinished | None = None

    @property
    def progress(self) -> ReleaseProgress:
        """Its progress, without its steps."""
        opened = self.opened
        senders = (approval.sender for approvals in self.approvals.values() for approval in approvals)
        return ReleaseProgress(
            key=opened.release_id,
            model=opened.model,
            began_at=self.opened_at,
            release_id=opened.release_id,
            version=opened.version,
            outcome=self.finished.outcome if self.finished is not None else None,
            policy=opened.policy,
            returns=opened.returns is not None,
            approvers=tuple(dict.fromkeys(senders)),
            hold=self.hold.as_order if self.hold is not None else None,
        )


async def recorded_releases(js: JetStreamContext, name: Name) -> dict[str, ReleaseProgress]:
    """Return the releases that a name without a role may mean, by id, without their steps.

    These are a release by its id, or those of a model that are in progress and that of the version, else of the newest.
    """
    records = RecordsOfModels(js, BUCKET, _Release)
    releases = [await records.get(key) for key in await _keys(js, name)]
    return {release.opened.release_id: release.progress for release in releases if release is not None}


async def _keys(js: JetStreamContext, name: Name) -> list[str]:
    if name.release_id is not None:
        models = await own_models(js)
        if models is not None:
            return [f"{model}.{name.release_id}" for model in models]
        prefix = f"$KV.{BUCKET}."
        message = await last_message(js, f"KV_{BUCKET}", f"{prefix}*.{name.release_id}")
        return [] if message is None else [message.subject.removeprefix(prefix)]
    record = await RecordsOfModels(js, BUCKET, ReleasesOfModel).get(f"{name.model}.model")
    if record is None:
        return []
    version = name.version or max(record.reservations.values(), default=0)
    named = [release_id for release_id, number in record.reservations.items() if number == version]
    return [f"{name.model}.{release_id}" for release_id in dict.fromkeys((*record.open, *named))]
