"""The pages: each renders what the index has."""

import re
from asyncio import to_thread
from contextlib import suppress
from typing import Annotated, Any, Final
from urllib.parse import quote

from fastapi import APIRouter, Path, Query, Request
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, RedirectResponse, Response

from contracts.vocabulary import DIGEST_PATTERN
from services.console.domain.alert_data import Alert
from services.console.domain.canary_screen import strongest_tests
from services.console.domain.people import Person
from services.console.domain.release_data import Release
from services.console.domain.version_screen import Proofs
from services.console.queries import alerts, canary, fleet, refused, releases, timeline, versions
from services.console.queries.quarantines import quarantines
from services.console.web.access import CSRF_FIELD, Signed, check_token, read_form
from services.console.web.answering import EPOCH, answered, target_in
from services.console.web.filters import AlertQuery, FleetQuery, HistoryQuery, RefusedQuery, ReleaseQuery, TimelineQuery
from services.console.web.headers import REPORT
from services.console.web.markdown import render_markdown
from services.console.web.plots import evidence_plot, latency_plot, pareto_plot
from services.console.web.rendering import Renderer
from services.console.web.sources import ModelPath, Sources, check_seen
from shared.errors import SlipwayError, Transient

Text = Annotated[str, Query(max_length=100)]
VersionPath = Annotated[int, Path(ge=0, le=999_999_999)]
Number = Annotated[int, Query(ge=0, le=999_999_999)]
REFUSED_SHOWN: Final = 5
"""Refused checkpoints on the screen of the releases; a screen of their own lists all."""
LINES: Final = 5
"""Tests whose evidence is drawn, the strongest ones; the table has all."""


def build_pages(sources: Sources, render: Renderer) -> APIRouter:
    """Return the routes of the pages; all need a session."""
    router = APIRouter()
    _fleet(router, sources, render)
    _release(router, sources, render)
    _versions(router, sources, render)
    _alerts(router, sources, render)
    _timeline(router, sources, render)
    return router


def _fleet(router: APIRouter, sources: Sources, render: Renderer) -> None:
    @router.get("/")
    def home(_signed: Signed) -> Response:
        return RedirectResponse("/fleet", 303)

    @router.get("/fleet")
    def all_models(request: Request, signed: Signed, query: FleetQuery) -> Response:
        since = sources.week_ago()
        shown = fleet.fleet(sources.seen_by(signed.person), **query.values, refused_since=since)
        return render(request, signed, "fleet.html", fleet=shown, filters=query.shown, week_ago=since)

    @router.get("/models/{model}")
    def one_model(request: Request, signed: Signed, model: ModelPath) -> Response:
        reader = sources.seen_by(signed.person)
        shown = fleet.fleet(reader, model=model, exact=True).models.items
        if not shown:
            raise HTTPException(404, f"There is no model {model} in the index.")
        return render(
            request,
            signed,
            "model.html",
            row=shown[0],
            quarantines=quarantines(reader, model, shown[0].quarantined),
            releases=releases.releases(reader, model=model, exact=True, limit=20),
            alerts=alerts.alerts(reader, model=model, exact=True, state="", limit=20),
            changes=timeline.timeline(reader, model=model, exact=True, limit=20),
        )


def _release(router: APIRouter, sources: Sources, render: Renderer) -> None:
    hub = sources.hub

    @router.get("/releases")
    def all_releases(request: Request, signed: Signed, query: ReleaseQuery) -> Response:
        reader, values = sources.seen_by(signed.person), query.values
        about = {name: values[name] for name in ("model", "exact", "since", "until")}
        turned_away = refused.refused_checkpoints(reader, **about, limit=REFUSED_SHOWN)
        shown = releases.releases(reader, **values)
        return render(request, signed, "releases.html", releases=shown, refused=turned_away, filters=query.shown)

    @router.get("/checkpoints")
    def all_refused(request: Request, signed: Signed, query: RefusedQuery) -> Response:
        shown = refused.refused_checkpoints(sources.seen_by(signed.person), **query.values)
        return render(request, signed, "checkpoints.html", refused=shown, filters=query.shown)

    @router.get("/releases/{release_id}")
    async def one_release(request: Request, signed: Signed, release_id: str) -> Response:
        reader = sources.seen_by(signed.person)
        shown = _known(await to_thread(releases.release, reader, release_id, hub.live(release_id)), "release")
        epoch = await _epoch_to_approve(sources, signed.person, shown)
        plot = pareto_plot(shown.variants)
        return render(request, signed, "release.html", release=shown, epoch=epoch, pareto=plot)

    @router.get("/releases/{release_id}/canary")
    def one_canary(request: Request, signed: Signed, release_id: str) -> Response:
        reader = sources.seen_by(signed.person)
        shown = canary.canary(reader, _known(releases.release(reader, release_id), "release"))
        tests = strongest_tests(shown)[:LINES]
        plots = {"evidence": evidence_plot(shown, tests), "latency": latency_plot(shown), "tests": tests}
        return render(request, signed, "canary.html", canary=shown, plots=plots)

    @router.post("/releases/{release_id}/{order}")
    async def decide(request: Request, signed: Signed, release_id: str, order: str) -> Response:
        form = await read_form(request)
        check_token(signed, form.get(CSRF_FIELD))
        shown = _known(releases.release(sources.seen_by(signed.person), release_id), "release")
        comment = form.get("reason", "")[:2000]
        if order == "approve":
            digest, epoch = form.get("digest", ""), form.get("epoch", "")
            if re.fullmatch(DIGEST_PATTERN, digest) is None or re.fullmatch(EPOCH, epoch) is None:
                raise HTTPException(400, "The form names no digest and epoch: reload the page of the release.")
            giving = sources.ordering.approve(signed.person, shown, digest, epoch=int(epoch), reason=comment)
        elif order == "reject":
            giving = sources.ordering.reject(signed.person, shown, comment)
        elif order == "cancel":
            giving = sources.ordering.cancel(signed.person, shown, comment)
        else:
            raise HTTPException(404, "There is no such order.")
        return await answered(request, render, signed, giving, f"/releases/{release_id}")


async def _epoch_to_approve(sources: Sources, person: Person, shown: Release) -> int | None:
    """Return the epoch that an approval names; None if a person may not approve, or the bus does not answer."""
    if shown.approval is None or not shown.approval.open or not person.may("approve", shown.model):
        return None
    with suppress(Transient):  # nothing can be approved then, and all else is shown
        return await sources.ordering.epoch_of(shown.model)
    return None


def _versions(router: APIRouter, sources: Sources, render: Renderer) -> None:
    @router.get("/models/{model}/versions/{version}")
    def one_version(request: Request, signed: Signed, model: ModelPath, version: VersionPath) -> Response:
        reader = sources.seen_by(signed.person)
        shown = _known(versions.version(reader, model, version), "version")
        others = [number for number in versions.numbers(reader, model) if number != version]
        plot = pareto_plot(shown.variants)
        return render(request, signed, "version.html", shown=shown, others=others, pareto=plot)

    @router.get("/models/{model}/versions/{version}/proofs")
    def proofs(request: Request, signed: Signed, model: ModelPath, version: VersionPath) -> Response:
        _known(versions.version(sources.seen_by(signed.person), model, version), "version")
        try:
            proven = sources.artifacts.prove(model, version)
        except SlipwayError as error:
            proven = Proofs(proofs=(), verified=False, card="", problem=error.sentence())
        shown = {"model": model, "version": version, "proven": proven, "card": render_markdown(proven.card)}
        return render(request, signed, "proofs.html", **shown)

    @router.get("/models/{model}/compare")
    def compare(request: Request, signed: Signed, model: ModelPath, left: Number, right: Number) -> Response:
        reader = sources.seen_by(signed.person)
        compared = _known(versions.comparison(reader, model, left, right), "version")
        numbers = versions.numbers(reader, model)
        return render(request, signed, "compare.html", compared=compared, numbers=numbers)


def _alerts(router: APIRouter, sources: Sources, render: Renderer) -> None:
    ordering = sources.ordering

    @router.get("/alerts")
    def all_alerts(request: Request, signed: Signed, query: AlertQuery) -> Response:
        shown = alerts.alerts(sources.seen_by(signed.person), **query.values)
        return render(request, signed, "alerts.html", alerts=shown, filters=query.shown)

    @router.get("/alerts/{alert_id:path}")
    def one_alert(request: Request, signed: Signed, alert_id: str) -> Response:
        shown: Alert = _known(alerts.alert(sources.seen_by(signed.person), alert_id), "alert")
        return render(request, signed, "alert.html", alert=shown)

    @router.get(REPORT)
    def report(request: Request, signed: Signed, alert: Annotated[str, Query(max_length=200)]) -> Response:
        if request.headers.get("sec-fetch-dest", "iframe") != "iframe":  # alone in a tab it might lead elsewhere
            return RedirectResponse(f"/alerts/{quote(alert)}", 303)
        shown: Alert = _known(alerts.alert(sources.seen_by(signed.person), alert), "alert")
        content = sources.artifacts.report(shown.alert.evidence) if shown.alert.evidence else None
        return HTMLResponse(_known(content, "report"))

    @router.get("/models/{model}/rollback")
    async def plan(request: Request, signed: Signed, model: ModelPath, target: Text = "") -> Response:
        check_seen(signed.person, model)
        try:
            shown = await ordering.plan_rollback(model, target_in(model, target))
        except Transient as error:
            return render(request, signed, "problem.html", 503, problem=error.sentence())
        return render(request, signed, "rollback.html", plan=shown, back=_back(request))

    @router.post("/models/{model}/rollback")
    async def roll_back(request: Request, signed: Signed, model: ModelPath) -> Response:
        form = await read_form(request)
        check_token(signed, form.get(CSRF_FIELD))
        failed, epoch = target_in(model, form.get("failed", "")), form.get("epoch", "")
        if failed is None or re.fullmatch(EPOCH, epoch) is None:
            raise HTTPException(400, "The form names no target and epoch: begin again at the plan of the rollback.")
        giving = ordering.roll_back(signed.person, failed, epoch=int(epoch), reason=form.get("reason", "")[:2000])
        return await answered(request, render, signed, giving, f"/models/{model}")


def _timeline(router: APIRouter, sources: Sources, render: Renderer) -> None:
    @router.get("/timeline")
    def changes(request: Request, signed: Signed, query: TimelineQuery) -> Response:
        shown = timeline.timeline(sources.seen_by(signed.person), **query.values)
        return render(request, signed, "timeline.html", changes=shown, filters=query.shown)

    @router.get("/history")
    def history(request: Request, signed: Signed, query: HistoryQuery) -> Response:
        shown = timeline.history(sources.seen_by(signed.person), **query.values)
        return render(request, signed, "history.html", events=shown, filters=query.shown)

    @router.get("/index")
    def state(request: Request, signed: Signed) -> Response:
        return render(request, signed, "index_state.html")


def _back(request: Request) -> str:
    alert = request.query_params.get("alert", "")
    return f"/alerts/{quote(alert)}" if alert else f"/models/{request.path_params['model']}"


def _known(entry: Any, name: str) -> Any:
    if entry is None:
        raise HTTPException(404, f"There is no such {name} in the index.")
    return entry
