"""The page of a drill in production: which requests it would affect, and the orders that begin and end it."""

from typing import Any

from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from contracts.facts import DrillFault
from contracts.vocabulary import Target
from services.console.domain.drill_form import FAULTS, DrillForm
from services.console.domain.duty_screens import Drill
from services.console.domain.operating import LONGEST_MINUTES
from services.console.domain.people import Person
from services.console.queries import duty
from services.console.queries.versions import triggers_of
from services.console.web.access import CSRF_FIELD, Signed, check_token, read_form
from services.console.web.answering import LONGEST_REASON, answered, planned, target_in
from services.console.web.rendering import Renderer
from services.console.web.sources import ModelPath, Sources, check_seen


def build_drill(sources: Sources, render: Renderer) -> APIRouter:
    """Return the routes; all need a session."""
    router = APIRouter()
    _form(router, sources, render)
    _orders(router, sources, render)
    return router


def _form(router: APIRouter, sources: Sources, render: Renderer) -> None:
    @router.get("/models/{model}/drill")
    async def edit(request: Request, signed: Signed, model: ModelPath) -> Response:
        check_seen(signed.person, model)
        served = [str(target) for target in await sources.ordering.serving(model)]
        given = {name: value for name, value in request.query_params.items() if name in DrillForm.model_fields}
        shown: dict[str, Any] = {
            "model": model,
            "served": served,
            "faults": FAULTS,
            "most": LONGEST_MINUTES,
            "running": _running(sources, signed.person, model),
            "form": DrillForm().model_dump() | given,
            "plan": None,
            "triggers": (),
        }
        if "fault" not in given:
            return await render.in_thread(request, signed, "drill.html", **shown)
        try:
            form = DrillForm.model_validate(given)
            target, fault = target_in(model, form.target), form.parsed_fault()
        except ValueError as error:
            return await render.in_thread(request, signed, "drill.html", 422, **shown, problem=_problem(error))
        if target is None:
            return await render.in_thread(
                request, signed, "drill.html", 422, **shown, problem="Choose a target that takes traffic."
            )
        plan = await sources.ordering.plan_drill(target, fault, share=form.percent / 100, minutes=form.minutes)
        triggers = triggers_of(sources.seen_by(signed.person), target)
        return await render.in_thread(request, signed, "drill.html", **shown | {"plan": plan, "triggers": triggers})


def _orders(router: APIRouter, sources: Sources, render: Renderer) -> None:
    @router.post("/models/{model}/drill")
    async def begin(request: Request, signed: Signed, model: ModelPath) -> Response:
        form = await read_form(request)
        check_token(signed, form.get(CSRF_FIELD))
        target, epoch, reason = planned(model, form, "drill")
        try:
            asked = DrillForm.model_validate(form)
            fault = asked.parsed_fault()
        except ValueError as error:
            raise HTTPException(422, _problem(error)) from error
        giving = sources.ordering.drill(
            signed.person, target, fault, share=asked.percent / 100, minutes=asked.minutes, epoch=epoch, reason=reason
        )
        return await answered(request, render, signed, giving, model)

    @router.post("/models/{model}/drill/end")
    async def end(request: Request, signed: Signed, model: ModelPath) -> Response:
        form = await read_form(request)
        check_token(signed, form.get(CSRF_FIELD))
        about = _of(_running(sources, signed.person, model), model, form.get("drill_id", ""))
        giving = sources.ordering.end_drill(signed.person, *about, form.get("reason", "")[:LONGEST_REASON])
        return await answered(request, render, signed, giving, model)


def _running(sources: Sources, person: Person, model: str) -> Drill | None:
    return duty.running_drill(sources.seen_by(person), model, sources.ordering.now())


def _of(running: Drill | None, model: str, drill_id: str) -> tuple[Target, DrillFault]:
    """Return the target and the fault of the drill that is in progress, if it is the one of this id.

    Raises:
        HTTPException: There is none, or it is another one.
    """
    target = target_in(model, running.target) if running is not None else None
    if running is None or target is None:
        raise HTTPException(404, f"No drill of {model} is in progress in production.")
    if running.drill_id != drill_id:
        reason = f"The drill {drill_id[:100]!r} of {model} is not ended: {running.drill_id} is in progress by now."
        raise HTTPException(409, f"{reason} Look at it, and end that one if it is to end.")
    return target, DrillFault.model_validate(running.fault)


def _problem(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']} (it is {str(first['input'])[:40]!r})"
    return str(error)
