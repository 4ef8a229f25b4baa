"""API and page of a replay: a policy edited in place, against the recorded traffic of a model."""

from typing import Annotated, Final

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from services.console.domain.replay_screen import (
    InvalidPolicyError,
    ReplayRefusedError,
    ReplayResult,
    parse_triggers,
    show_triggers,
)
from services.console.queries import alerts, releases
from services.console.queries.reading import Reader
from services.console.replaying import LONGEST_H, RETRY_AFTER_S, Replaying, ReplayRunningError
from services.console.web.access import CSRF_FIELD, Signed, check_token, read_form
from services.console.web.api import PREFIX, Csrf, ModelPath, Sources, check_seen
from services.console.web.rendering import Renderer
from shared.errors import SlipwayError, Transient

LONGEST_POLICY = 32_768
HOURS = 24
RETRY: Final = {"Retry-After": str(RETRY_AFTER_S)}
REFUSED: Final = (InvalidPolicyError, ReplayRefusedError)


class ReplayBody(BaseModel):
    """A policy (YAML or JSON) whose triggers are replayed, and how many hours back."""

    model_config = ConfigDict(extra="forbid")

    policy: Annotated[str, Field(min_length=1, max_length=LONGEST_POLICY)]
    hours: Annotated[int, Field(ge=1, le=LONGEST_H)] = HOURS


def build_replay(sources: Sources, replaying: Replaying, render: Renderer) -> APIRouter:
    """Return the routes; all need a session."""
    router = APIRouter()
    _api(router, replaying)
    _pages(router, sources, replaying, render)
    return router


def _api(router: APIRouter, replaying: Replaying) -> None:
    @router.post(f"{PREFIX}/models/{{model}}/replay", tags=["models"])
    async def replayed(signed: Signed, model: ModelPath, body: ReplayBody, token: Csrf = None) -> ReplayResult:
        """What the triggers of a policy would have done to the recorded traffic of a model; it changes nothing."""
        check_token(signed, token)
        check_seen(signed.person, model)
        try:
            return await replaying.run(model, parse_triggers(body.policy), body.hours)
        except REFUSED as error:
            raise HTTPException(422, str(error)) from error
        except ReplayRunningError as error:
            raise HTTPException(503, str(error), RETRY) from error


def _pages(router: APIRouter, sources: Sources, replaying: Replaying, render: Renderer) -> None:
    @router.get("/models/{model}/replay", include_in_schema=False)
    def edit(request: Request, signed: Signed, model: ModelPath) -> Response:
        check_seen(signed.person, model)
        policy = _policy_of(sources.seen_by(signed.person), model)
        return render(request, signed, "replay.html", model=model, policy=policy, hours=HOURS, most=LONGEST_H)

    @router.post("/models/{model}/replay", include_in_schema=False)
    async def run(request: Request, signed: Signed, model: ModelPath) -> Response:
        form = await read_form(request)
        check_token(signed, form.get(CSRF_FIELD))
        check_seen(signed.person, model)
        text, hours = form.get("policy", "").replace("\r\n", "\n"), form.get("hours", "")
        shown = {"model": model, "policy": text, "hours": hours, "most": LONGEST_H}
        try:
            body = ReplayBody.model_validate({"policy": text, "hours": hours})
            result = await replaying.run(model, parse_triggers(text), body.hours)
        except (*REFUSED, ReplayRunningError, SlipwayError, ValidationError) as error:
            status, problem = _problem(error)
            page = render(request, signed, "replay.html", status, **shown, problem=problem)
            page.headers.update(RETRY if status == 503 else {})
            return page
        reader = sources.seen_by(signed.person)
        recorded = alerts.alerts(reader, model=model, state="", since=result.since, limit=100, exact=True)
        return render(request, signed, "replay.html", **shown, result=result, recorded=recorded)


def _problem(error: Exception) -> tuple[int, str]:
    """Return the status and the sentence of an error, those of the API."""
    if isinstance(error, SlipwayError):
        return 503 if isinstance(error, Transient) else 422, error.sentence()
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        value = f" (it is {str(first['input'])[:40]!r})" if first["loc"] == ("hours",) else ""
        return 422, f"{'.'.join(map(str, first['loc']))}: {first['msg']}{value}"
    return 503 if isinstance(error, ReplayRunningError) else 422, str(error)


def _policy_of(reader: Reader, model: str) -> str:
    """Return the triggers of the newest release of a model, as YAML.

    Raises:
        HTTPException: It has no release.
    """
    newest = next(iter(releases.releases(reader, model=model, exact=True, limit=1).items), None)
    shown = releases.release(reader, newest.release_id) if newest is not None else None
    if shown is None:
        raise HTTPException(404, f"There is no release of {model} in the index.")
    return show_triggers(shown.policy)
