"""The HTTP routes of the pages, rendered from the index."""

import re
from asyncio import to_thread
from collections.abc import Coroutine
from contextlib import suppress
from typing import Annotated, Any, Final
from urllib.parse import quote

from fastapi import APIRouter, Path, Query, Request
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, RedirectResponse, Response

from contracts.routes import Route
from contracts.vocabulary import DIGEST_PATTERN
from services.console.domain.alert_data import Alert
from services.console.domain.canary_screen import strongest_tests
from services.console.domain.order_data import OrderAnswer
from services.console.domain.people import Person
from services.console.domain.release_data import Release
from services.console.domain.version_screen import Proofs
from services.console.ordering import Ordering
from services.console.queries import alerts, canary, fleet, orders, refused, releases, timeline, versions
from services.console.queries.figures import figures, with_moments
from services.console.queries.quarantines import quarantines
from services.console.web.access import CSRF_FIELD, Signed, check_token, read_form
from services.console.web.answering import EPOCH, LONGEST_REASON, answered, target_in
from services.console.web.filters import AlertQuery, FleetQuery, HistoryQuery, RefusedQuery, ReleaseQuery, TimelineQuery
from services.console.web.headers import REPORT
from services.console.web.markdown import render_markdown
from services.console.web.plots import evidence_plot, figure_plots, latency_plot, pareto_plot
from services.console.web.rendering import SHARES, Renderer
from services.console.web.sources import ModelPath, Sources, check_seen
from shared.errors import SlipwayError, Transient

Text = Annotated[str, Query(max_length=100)]
VersionPath = Annotated[int, Path(ge=0, le=999_999_999)]
ReleaseId = Annotated[str, Query(pattern=r"^(r-[0-9a-f-]{1,60})?$")]
SHARE: Final = r"0(\.[0-9]{1,17})?|[1-9](\.[0-9]{1,16})?e-[0-9]{1,2}"
Number = Annotated[int, Query(ge=0, le=999_999_999)]
REFUSED_SHOWN: Final = 5
"""Refused checkpoints on the releases page; the checkpoints page lists all."""
LINES: Final = 5
"""Maximum tests drawn in the evidence plot, strongest first; the table lists all."""


def build_pages(sources: Sources, render: Renderer) -> APIRouter:
    """Return the HTTP routes of the pages; all require a session."""
    router = APIRouter()
    _fleet(router, sources, render)
    _release(router, sources, render)
    _orders(router, sources, render)
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
            plots=figure_plots(
                with_moments(reader, shown[0].model, figures(reader, shown[0].model, shown[0].canary or ""))
            ),
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
        route = await _route_to_order(sources, signed.person, shown)
        values = {"release": shown, "route": route, "pareto": pareto_plot(shown.variants)}
        return await render.in_thread(request, signed, "release.html", **values)

    @router.get("/releases/{release_id}/canary")
    def one_canary(request: Request, signed: Signed, release_id: str) -> Response:
        reader = sources.seen_by(signed.person)
        shown = canary.canary(reader, _known(releases.release(reader, release_id), "release"))
        tests = strongest_tests(shown)[:LINES]
        plots = {"evidence": evidence_plot(shown, tests), "latency": latency_plot(shown)}
        return render(request, signed, "canary.html", canary=shown, plots=plots)


def _orders(router: APIRouter, sources: Sources, render: Renderer) -> None:
    @router.post("/releases/{release_id}/{order}")
    async def decide(request: Request, signed: Signed, release_id: str, order: str) -> Response:
        form = await read_form(request)
        check_token(signed, form.get(CSRF_FIELD))
        shown = _known(releases.release(sources.seen_by(signed.person), release_id), "release")
        giving = _giving(sources.ordering, signed.person, shown, order, form)
        return await answered(request, render, signed, giving, shown.model, release_id)

    @router.get("/models/{model}/orders/{order_id}")
    def one_order(
        request: Request, signed: Signed, model: ModelPath, order_id: str, release: ReleaseId = ""
    ) -> Response:
        check_seen(signed.person, model)
        shown = _known(orders.followed(sources.seen_by(signed.person), model, order_id), "order")
        back = f"/releases/{release}" if release else f"/models/{model}"
        return render(request, signed, "answer.html", followed=shown, model=model, back=back)


def _giving(
    ordering: Ordering, person: Person, shown: Release, order: str, form: dict[str, str]
) -> Coroutine[Any, Any, OrderAnswer]:
    """Return the coroutine that publishes a form's order.

    Raises:
        HTTPException: The order is unknown, or the form lacks the digest, share or epoch shown.
    """
    reason = form.get("reason", "")[:LONGEST_REASON]
    if order in ("approve", "promote"):
        names = {"approve": ("digest", DIGEST_PATTERN), "promote": ("share", SHARE)}
        (name, pattern), epoch = names[order], form.get("epoch", "")
        seen = form.get(name, "")
        if re.fullmatch(pattern, seen) is None or re.fullmatch(EPOCH, epoch) is None:
            raise HTTPException(400, f"The form names no {name} and epoch: reload the page of the release.")
        if order == "approve":
            return ordering.approve(person, shown, seen, epoch=int(epoch), reason=reason)
        return ordering.promote(person, shown, share=float(seen), epoch=int(epoch), reason=reason)
    if order in ("pause", "resume"):
        return ordering.hold(person, shown, reason, paused=order == "pause")
    if order == "reject":
        return ordering.reject(person, shown, reason)
    if order == "cancel":
        return ordering.cancel(person, shown, reason)
    raise HTTPException(404, "There is no such order.")


async def _route_to_order(sources: Sources, person: Person, shown: Release) -> Route | None:
    """Return the route for an approval or promotion; None if neither applies or the bus does not answer."""
    takes_it = shown.outcome is None and any(person.may(order, shown.model) for order in ("approve", "promote"))
    with suppress(Transient):  # the page then offers neither order
        return await sources.ordering.route_of(shown.model) if takes_it else None
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
        limit = shown.alert.limit if shown.alert.kind in SHARES else None
        return render(request, signed, "alert.html", alert=shown, plots=figure_plots(shown.figures, limit))

    @router.get(REPORT)
    def report(request: Request, signed: Signed, alert: Annotated[str, Query(max_length=200)]) -> Response:
        if request.headers.get("sec-fetch-dest", "iframe") != "iframe":  # as a top-level page it could redirect
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
            return await render.in_thread(request, signed, "problem.html", 503, problem=error.sentence())
        return await render.in_thread(request, signed, "rollback.html", plan=shown, back=_back(request))

    @router.post("/models/{model}/rollback")
    async def roll_back(request: Request, signed: Signed, model: ModelPath) -> Response:
        form = await read_form(request)
        check_token(signed, form.get(CSRF_FIELD))
        failed, epoch = target_in(model, form.get("failed", "")), form.get("epoch", "")
        if failed is None or re.fullmatch(EPOCH, epoch) is None:
            raise HTTPException(400, "The form names no target and epoch: begin again at the plan of the rollback.")
        giving = ordering.roll_back(signed.person, failed, epoch=int(epoch), reason=form.get("reason", "")[:2000])
        return await answered(request, render, signed, giving, model)


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
