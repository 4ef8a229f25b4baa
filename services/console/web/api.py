"""The API under `/api/v1`: the data of every screen, and the orders of people."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Final, TypeVar

from fastapi import APIRouter, Header, HTTPException, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import StreamingResponse

from contracts.vocabulary import MODEL_NAME_PATTERN, Digest, Target, Variant
from services.console.domain import screens
from services.console.domain.alert_data import Alert, AlertRow
from services.console.domain.canary_screen import Canary
from services.console.domain.order_data import OrderAnswer, RollbackPlan
from services.console.domain.people import Person
from services.console.domain.release_data import RefusedCheckpoint, Release, ReleaseRow
from services.console.domain.rows import instant
from services.console.domain.screens import Page
from services.console.domain.version_screen import Proofs, Version, VersionComparison
from services.console.follower import Progress
from services.console.hub import Hub
from services.console.ordering import Ordering
from services.console.ports import Artifacts, DeadLetters
from services.console.queries import alerts, canary, fleet, refused, releases, timeline, versions
from services.console.queries.reading import Reader, WholeIndex
from services.console.web.access import Signed, SignedIn, access_of, check_token
from services.console.web.filters import AlertQuery, FleetQuery, HistoryQuery, RefusedQuery, ReleaseQuery, TimelineQuery

PREFIX: Final = "/api/v1"
T = TypeVar("T")
ModelPath = Annotated[str, Path(pattern=MODEL_NAME_PATTERN)]
VersionPath = Annotated[int, Path(ge=0, le=999_999_999)]
Csrf = Annotated[str | None, Header(alias="X-CSRF-Token", description="The token of the session: `GET /api/v1/me`.")]


@dataclass(frozen=True)
class Sources:
    """What the API answers from."""

    index: WholeIndex
    progress: Progress
    hub: Hub
    ordering: Ordering
    artifacts: Artifacts
    letters: DeadLetters

    def seen_by(self, person: Person) -> Reader:
        """Return the index as a person may see it: a member of a team, the rows about its models."""
        return self.index if person.models is None else self.index.about(person.models)

    def week_ago(self) -> str:
        """Return the time a week ago, as the index has times."""
        return instant(self.ordering.now() - timedelta(days=7)) or ""


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Ordered(_Body):
    """An order about a target of the model, and why."""

    version: Annotated[int, Field(ge=0)]
    variant: Variant
    reason: Annotated[str, Field(min_length=1, max_length=2000)]

    def target(self, model: str) -> Target:
        """Return the target."""
        return Target(model=model, version=self.version, variant=self.variant)


class ApproveBody(_Body):
    """An approval: the digest of what is approved, the epoch of the route (of the rollback plan), and a comment."""

    manifest_digest: Digest
    epoch: Annotated[int, Field(ge=0)]
    reason: Annotated[str, Field(max_length=2000)] = ""


class CancelBody(_Body):
    """A cancellation or a rejection, and why."""

    reason: Annotated[str, Field(min_length=1, max_length=2000)]


class RollbackBody(Ordered):
    """A rollback: of which target, at which epoch of the route (of the plan), why, and to which version."""

    epoch: Annotated[int, Field(ge=0)]
    to_version: Annotated[int, Field(ge=0)] | None = None


class Identified(screens.Me):
    """Who is signed in, with the token that orders of the session carry."""

    csrf: str


def me_of(person: Person) -> dict[str, Any]:
    """Return who a person is, as the API says it."""
    return {
        "name": person.name,
        "roles": person.roles,
        "team": person.team,
        "orders": tuple(sorted(person.orders)),
        "models": person.models,
        "hint": person.hint,
    }


def index_state(progress: Progress) -> screens.IndexState:
    """Return how far the index is."""
    behind = progress.behind
    return screens.IndexState(behind=behind, ratio=round(progress.ratio, 4), ready=bool(progress.last) and behind < 100)


def build_api(sources: Sources) -> APIRouter:
    """Return the routes of the API; all need a session."""
    router = APIRouter(prefix=PREFIX)
    _screens(router, sources)
    _versions(router, sources)
    _lists(router, sources)
    _orders(router, sources)
    return router


def _screens(router: APIRouter, sources: Sources) -> None:
    hub = sources.hub

    @router.get("/me", tags=["session"])
    def me(signed: Signed) -> Identified:
        """Who is signed in, what the person may do, and the token that orders carry."""
        return Identified(**me_of(signed.person), csrf=signed.session.csrf)

    @router.get("/index", tags=["session"])
    def index_progress(_signed: Signed) -> screens.IndexState:
        """How far the index is behind the event log."""
        return index_state(sources.progress)

    @router.get("/releases/{release_id}", tags=["releases"])
    def one_release(signed: Signed, release_id: str) -> Release:
        """A release with its steps, variants, gates, canary, rehearsal, approval and history."""
        return _known(
            releases.release(sources.seen_by(signed.person), release_id, hub.live(release_id)), f"release {release_id}"
        )

    @router.get("/releases/{release_id}/canary", tags=["releases"])
    def one_canary(signed: Signed, release_id: str) -> Canary:
        """The canary of a release: candidate over active, and the evidence against its line over time."""
        reader = sources.seen_by(signed.person)
        return canary.canary(reader, _known(releases.release(reader, release_id), f"release {release_id}"))

    @router.get("/alerts/{alert_id:path}", tags=["alerts"])
    def one_alert(signed: Signed, alert_id: str) -> Alert:
        """An alert with its figures, the decision that followed, and its history."""
        return _known(alerts.alert(sources.seen_by(signed.person), alert_id), f"alert {alert_id}")

    @router.get("/models/{model}/rollback-plan", tags=["orders"])
    async def rollback_plan(
        signed: Signed,
        model: ModelPath,
        version: Annotated[int | None, Query(ge=0)] = None,
        variant: Variant | None = None,
        to_version: Annotated[int | None, Query(ge=0)] = None,
    ) -> RollbackPlan:
        """What a rollback would do now; it changes nothing."""
        check_seen(signed.person, model)
        failed = Target(model=model, version=version, variant=variant) if version is not None and variant else None
        return await sources.ordering.plan_rollback(model, failed, to_version)

    @router.get("/stream", tags=["session"], response_class=StreamingResponse)
    async def stream(
        request: Request, signed: Signed, since: Annotated[float | None, Query(ge=0)] = None
    ) -> StreamingResponse:
        """Server-sent events: `change`, with a list of topics (`model:…`, `release:…`, `alert:…`, kinds, or `all`)."""
        session = signed.session.csrf
        if hub.is_full(session):
            raise HTTPException(503, "Too many pages are open; this one is not live.")

        def still() -> bool:
            now = access_of(request).look(request)
            return now is not None and now.person == signed.person

        lines: AsyncIterator[str] = hub.stream(signed.person.models, session, still, since=since)
        return StreamingResponse(lines, media_type="text/event-stream", headers={"x-accel-buffering": "no"})


def _versions(router: APIRouter, sources: Sources) -> None:
    @router.get("/models/{model}/versions/{version}", tags=["models"])
    def one_version(signed: Signed, model: ModelPath, version: VersionPath) -> Version:
        """A version: lineage back to the hash of the training data, digests, measurements, and when it served."""
        return _known(versions.version(sources.seen_by(signed.person), model, version), f"version {version} of {model}")

    @router.get("/models/{model}/versions/{version}/proofs", tags=["models"])
    def proofs(signed: Signed, model: ModelPath, version: VersionPath) -> Proofs:
        """What signatures, digests and attestations prove of a version, and its model card, read from the store."""
        one_version(signed, model, version)
        return sources.artifacts.prove(model, version)

    @router.get("/models/{model}/versions/{version}/compare/{other}", tags=["models"])
    def compare(signed: Signed, model: ModelPath, version: VersionPath, other: VersionPath) -> VersionComparison:
        """Two versions of a model, property by property."""
        compared = versions.comparison(sources.seen_by(signed.person), model, version, other)
        return _known(compared, f"version {version} or {other} of {model}")


def _lists(router: APIRouter, sources: Sources) -> None:
    @router.get("/fleet", tags=["models"])
    def all_models(signed: Signed, query: FleetQuery) -> screens.Fleet:
        """All models: what serves each, alerts, last rollback, figures of the last windows."""
        return fleet.fleet(sources.seen_by(signed.person), **query.values, refused_since=sources.week_ago())

    @router.get("/releases", tags=["releases"])
    def all_releases(signed: Signed, query: ReleaseQuery) -> Page[ReleaseRow]:
        """Releases, the newest first; `state` is `open`, `finished`, a state or an outcome."""
        return releases.releases(sources.seen_by(signed.person), **query.values)

    @router.get("/refused-checkpoints", tags=["releases"])
    def all_refused(signed: Signed, query: RefusedQuery) -> Page[RefusedCheckpoint]:
        """Checkpoints that were refused before a release began, the newest first, each with its code and reason."""
        return refused.refused_checkpoints(sources.seen_by(signed.person), **query.values)

    @router.get("/alerts", tags=["alerts"])
    def all_alerts(signed: Signed, query: AlertQuery) -> Page[AlertRow]:
        """Alerts: open ones first, the most severe of them first."""
        return alerts.alerts(sources.seen_by(signed.person), **query.values)

    @router.get("/timeline", tags=["models"])
    def changes(signed: Signed, query: TimelineQuery) -> Page[screens.Deployment]:
        """What served when, and who changed it, the newest first."""
        return timeline.timeline(sources.seen_by(signed.person), **query.values)

    @router.get("/events", tags=["history"])
    def events(signed: Signed, query: HistoryQuery) -> Page[screens.EventRow]:
        """The events of the log, the newest first."""
        return timeline.history(sources.seen_by(signed.person), **query.values)


def _orders(router: APIRouter, sources: Sources) -> None:
    def release_of(signed: SignedIn, release_id: str) -> Release:
        return _known(releases.release(sources.seen_by(signed.person), release_id), f"release {release_id}")

    @router.post("/releases/{release_id}/approve", tags=["orders"])
    async def approve(signed: Signed, release_id: str, body: ApproveBody, token: Csrf = None) -> OrderAnswer:
        """Approve what a release would serve; void if the route has changed since the epoch."""
        check_token(signed, token)
        shown = release_of(signed, release_id)
        return await sources.ordering.approve(
            signed.person, shown, body.manifest_digest, epoch=body.epoch, reason=body.reason
        )

    @router.post("/releases/{release_id}/reject", tags=["orders"])
    async def reject(signed: Signed, release_id: str, body: CancelBody, token: Csrf = None) -> OrderAnswer:
        """Reject a release that waits for approval."""
        check_token(signed, token)
        return await sources.ordering.reject(signed.person, release_of(signed, release_id), body.reason)

    @router.post("/releases/{release_id}/cancel", tags=["orders"])
    async def cancel(signed: Signed, release_id: str, body: CancelBody, token: Csrf = None) -> OrderAnswer:
        """Cancel a release."""
        check_token(signed, token)
        return await sources.ordering.cancel(signed.person, release_of(signed, release_id), body.reason)

    @router.post("/models/{model}/rollback", tags=["orders"])
    async def rollback(signed: Signed, model: ModelPath, body: RollbackBody, token: Csrf = None) -> OrderAnswer:
        """Roll a target back; void if the route has changed since the epoch of the plan."""
        check_token(signed, token)
        return await sources.ordering.roll_back(
            signed.person, body.target(model), epoch=body.epoch, reason=body.reason, to_version=body.to_version
        )


def check_seen(person: Person, model: str) -> None:
    """Refuse a model that a person may not see, as if there was none.

    Raises:
        HTTPException: It is not one of the person's team.
    """
    if not person.sees(model):
        raise HTTPException(404, f"There is no model {model} in the index.")


def _known(entry: T | None, name: str) -> T:
    if entry is None:
        raise HTTPException(404, f"There is no {name[:100]} in the index.")
    return entry
