"""The quarantine page: start and reason of a quarantine, the effect of lifting it, and the order."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from services.console.queries.quarantines import quarantines
from services.console.web.access import CSRF_FIELD, Signed, check_token, read_form
from services.console.web.answering import answered, planned, target_in
from services.console.web.rendering import Renderer
from services.console.web.sources import ModelPath, Sources, check_seen


def build_quarantine(sources: Sources, render: Renderer) -> APIRouter:
    """Return the HTTP routes of the page; all require a session."""
    router = APIRouter()

    @router.get("/models/{model}/quarantine")
    async def plan(
        request: Request, signed: Signed, model: ModelPath, target: Annotated[str, Query(max_length=100)] = ""
    ) -> Response:
        check_seen(signed.person, model)
        named = target_in(model, target)
        if named is None:
            raise HTTPException(400, f"The address names no target of {model}: follow a link of its page.")
        shown = await sources.ordering.plan_lift(named)
        reader = sources.seen_by(signed.person)
        held = quarantines(reader, model, [str(named)])[0] if shown.refused is None else None
        return await render.in_thread(request, signed, "lift.html", plan=shown, held=held)

    @router.post("/models/{model}/quarantine")
    async def lift(request: Request, signed: Signed, model: ModelPath) -> Response:
        form = await read_form(request)
        check_token(signed, form.get(CSRF_FIELD))
        target, epoch, reason = planned(model, form, "lift")
        giving = sources.ordering.lift(signed.person, target, epoch=epoch, reason=reason)
        return await answered(request, render, signed, giving, model)

    return router
