"""API and pages of those on duty: incidents, runbooks, rehearsals and drills, dead letters."""

import re
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from services.console.domain.duty_screens import DeadLetter, Drill, Rehearsal
from services.console.domain.screens import Page
from services.console.queries import duty
from services.console.web.access import CSRF_FIELD, Signed, access_of, check_token, read_form
from services.console.web.api import PREFIX, Sources
from services.console.web.filters import DrillQuery, RehearsalQuery
from services.console.web.markdown import render_markdown
from services.console.web.rendering import FOLDER, RUNBOOKS, Renderer

LOCAL: Final = re.compile(r"/(?![/\\])[^\s]{0,500}")
"""A path on the console itself."""
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

    @router.post("/incidents", include_in_schema=False)
    async def acknowledge(request: Request, signed: Signed) -> Response:
        form = await read_form(request)
        check_token(signed, form.get(CSRF_FIELD))
        key, back = form.get("incident", "")[:200], form.get("back", "")
        if not signed.person.may("rollback", form.get("model", "")) or LOCAL.fullmatch(back) is None:
            raise HTTPException(403, "Operators acknowledge what is about their models.")
        access_of(request).sessions.acknowledge(key, signed.person.name)
        sources.hub.announce({"incidents"})
        return RedirectResponse(back, 303)

    @router.get("/runbooks/{name}", include_in_schema=False)
    def runbook(request: Request, signed: Signed, name: str) -> Response:
        path = f"docs/runbooks/{name}.md"
        if path not in RUNBOOKS:
            raise HTTPException(404, "There is no such runbook here.")
        text = render_markdown((FOLDER.parents[1] / path).read_text(encoding="utf-8"))
        return render(request, signed, "runbook.html", name=name, text=text)
