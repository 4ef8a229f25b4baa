"""Incidents and runbooks, for the person on call."""

import re
from asyncio import to_thread
from typing import Final

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from services.console.queries.incidents import incidents
from services.console.web.access import CSRF_FIELD, Signed, access_of, check_token, read_form
from services.console.web.markdown import render_markdown
from services.console.web.rendering import FOLDER, RUNBOOKS, Renderer
from services.console.web.sources import Sources

LOCAL: Final = re.compile(r"/(?![/\\])\S*")
"""Matches a path of the console itself."""
LONGEST_BACK: Final = 2000
"""Longest address to return to after an acknowledgement; otherwise the fleet page follows."""
SIBLINGS: Final = re.compile(r"\]\(([\w-]+)\.md\)")
"""Matches a runbook's link to another runbook."""
OTHERS: Final = re.compile(r"\[([^\]]+)\]\(\.\./([^)]+)\)")
"""Matches a runbook's link to a page that the console does not have."""


def build_incidents(sources: Sources, render: Renderer) -> APIRouter:
    """Return the HTTP routes of runbooks and acknowledgements; all require a session."""
    router = APIRouter()

    @router.post("/incidents")
    async def acknowledge(request: Request, signed: Signed) -> Response:
        form = await read_form(request)
        check_token(signed, form.get(CSRF_FIELD))
        key, back, person = form.get("incident", ""), form.get("back", ""), signed.person
        sessions = access_of(request).sessions
        shown = await to_thread(incidents, sources.seen_by(person), sources.ordering.now(), sessions.acknowledged)
        known = [each for each in shown if each.key == key]  # empty if it ended meanwhile
        if LOCAL.fullmatch(back) is None or not all(person.acknowledges(each.model) for each in known):
            raise HTTPException(403, "Operators acknowledge what is about their models.")
        if known:
            sessions.acknowledge(key, person.name)
            sources.hub.announce({"incidents"})
        return RedirectResponse(back if len(back) <= LONGEST_BACK else "/fleet", 303)

    @router.get("/runbooks/{name}")
    def runbook(request: Request, signed: Signed, name: str) -> Response:
        path = f"docs/runbooks/{name}.md"
        if path not in RUNBOOKS:
            raise HTTPException(404, "There is no such runbook here.")
        text = (FOLDER.parents[1] / path).read_text(encoding="utf-8")
        text = OTHERS.sub(r"\1 (`docs/\2`)", SIBLINGS.sub(r"](\1)", text))
        return render(request, signed, "runbook.html", name=name, text=render_markdown(text))

    return router
