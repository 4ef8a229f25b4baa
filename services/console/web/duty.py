"""API and pages of those on duty: rehearsals and drills, dead letters, audit."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from services.console.domain.duty_screens import DeadLetter, Drill, Rehearsal
from services.console.domain.screens import Page
from services.console.queries import duty, timeline
from services.console.web.access import Signed
from services.console.web.api import PREFIX, Sources
from services.console.web.filters import DrillQuery, HistoryQuery, RehearsalQuery
from services.console.web.rendering import Renderer

After = Annotated[int, Query(ge=0, le=1_000_000)]


def build_duty(sources: Sources, render: Renderer) -> APIRouter:
    """Return the routes; all need a session."""
    router = APIRouter()
    _api(router, sources)
    _pages(router, sources, render)
    return router


def _api(router: APIRouter, sources: Sources) -> None:
    @router.get(f"{PREFIX}/rehearsals", tags=["releases"])
    def all_rehearsals(signed: Signed, query: RehearsalQuery) -> Page[Rehearsal]:
        """Rehearsed rollbacks, the newest first: the verdict, and the seconds that each trigger took."""
        return duty.rehearsals(sources.seen_by(signed.person), **query.values)

    @router.get(f"{PREFIX}/drills", tags=["models"])
    def all_drills(signed: Signed, query: DrillQuery) -> Page[Drill]:
        """Drills that people ordered, the newest first, with the alerts and rollbacks that followed."""
        return duty.drills(sources.seen_by(signed.person), **query.values)

    @router.get(f"{PREFIX}/deadletters", tags=["history"])
    async def all_letters(signed: Signed) -> tuple[DeadLetter, ...]:
        """The newest messages that services gave up on, without their content."""
        return await sources.letters.newest(signed.person.models)


def _pages(router: APIRouter, sources: Sources, render: Renderer) -> None:
    @router.get("/drills", include_in_schema=False)
    def all_drills(request: Request, signed: Signed, query: RehearsalQuery, drills_after: After = 0) -> Response:
        reader = sources.seen_by(signed.person)
        shown = {
            "rehearsals": duty.rehearsals(reader, **query.values),
            "drills": duty.drills(reader, model=query.model, exact=query.exact, after=drills_after, limit=query.limit),
        }
        return render(request, signed, "drills.html", **shown, filters=query.shown)

    @router.get("/deadletters", include_in_schema=False)
    async def all_letters(request: Request, signed: Signed) -> Response:
        letters = await sources.letters.newest(signed.person.models)
        return render(request, signed, "deadletters.html", letters=letters)

    @router.get("/audit", include_in_schema=False)
    def audit(request: Request, signed: Signed, query: HistoryQuery) -> Response:
        shown = timeline.history(sources.seen_by(signed.person), **{**query.values, "audited": True})
        return render(request, signed, "audit.html", events=shown, filters=query.shown)
