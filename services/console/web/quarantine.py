"""API and page of a quarantine: since when and why, what lifting it would do, and the order."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from contracts.vocabulary import Target, Variant
from services.console.domain.order_data import LiftPlan, OrderAnswer, Quarantine
from services.console.queries.quarantines import quarantined, quarantines
from services.console.web.access import CSRF_FIELD, Signed, check_token, read_form
from services.console.web.answering import answered, planned, target_in
from services.console.web.api import PREFIX, Csrf, ModelPath, Ordered, Sources, check_seen
from services.console.web.rendering import Renderer


class LiftBody(Ordered):
    """The target whose quarantine is lifted, the epoch of the route (of the plan), and why."""

    epoch: Annotated[int, Field(ge=0)]


def build_quarantine(sources: Sources, render: Renderer) -> APIRouter:
    """Return the routes; all need a session."""
    router = APIRouter()
    _api(router, sources)
    _pages(router, sources, render)
    return router


def _api(router: APIRouter, sources: Sources) -> None:
    @router.get(f"{PREFIX}/models/{{model}}/quarantines", tags=["models"])
    def all_quarantines(signed: Signed, model: ModelPath) -> tuple[Quarantine, ...]:
        """The quarantined targets of a model: since when, by whom, and why."""
        check_seen(signed.person, model)
        reader = sources.seen_by(signed.person)
        return quarantines(reader, model, quarantined(reader, model))

    @router.get(f"{PREFIX}/models/{{model}}/lift-plan", tags=["orders"])
    async def lift_plan(
        signed: Signed, model: ModelPath, version: Annotated[int, Query(ge=0)], variant: Variant
    ) -> LiftPlan:
        """What lifting a quarantine would do now; it changes nothing."""
        check_seen(signed.person, model)
        return await sources.ordering.plan_lift(Target(model=model, version=version, variant=variant))

    @router.post(f"{PREFIX}/models/{{model}}/lift", tags=["orders"])
    async def lift(signed: Signed, model: ModelPath, body: LiftBody, token: Csrf = None) -> OrderAnswer:
        """Lift the quarantine of a target; void if the route has changed since the epoch of the plan."""
        check_token(signed, token)
        return await sources.ordering.lift(signed.person, body.target(model), epoch=body.epoch, reason=body.reason)


def _pages(router: APIRouter, sources: Sources, render: Renderer) -> None:
    @router.get("/models/{model}/quarantine", include_in_schema=False)
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
        return render(request, signed, "lift.html", plan=shown, held=held)

    @router.post("/models/{model}/quarantine", include_in_schema=False)
    async def lift(request: Request, signed: Signed, model: ModelPath) -> Response:
        form = await read_form(request)
        check_token(signed, form.get(CSRF_FIELD))
        target, epoch, reason = planned(model, form, "lift")
        giving = sources.ordering.lift(signed.person, target, epoch=epoch, reason=reason)
        return await answered(request, render, signed, giving, f"/models/{model}")
