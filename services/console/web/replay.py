"""API and page of a replay: a policy edited in place, against the recorded traffic of a model."""

from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from services.console.domain.replay_screen import InvalidPolicyError, ReplayResult, parse_triggers, show_triggers
from services.console.queries import alerts, releases
from services.console.queries.reading import Reader
from services.console.replaying import LONGEST_H, Replaying
from services.console.web.access import CSRF_FIELD, Signed, check_token, read_form
from services.console.web.api import PREFIX, Csrf, ModelPath, Sources, check_seen
from services.console.web.rendering import Renderer
from shared.errors import SlipwayError

LONGEST_POLICY = 32_768
HOURS = 24


class ReplayBody(BaseModel):
    """A policy (YAML or JSON) whose triggers are replayed, and how many hours back."""

    model_config = ConfigDict(extra="forbid")

    policy: Annotated[str, Field(min_length=1, max_length=LONGEST_POLICY)]
    hours: Annotated[int, Field(ge=1, le=LONGEST_H)] = HOURS


def build_replay(sources: Sources, replaying: Replaying, render: Renderer) -> APIRouter:
    """Return the routes; all need a session."""
    router = APIRouter()

    @router.post(f"{PREFIX}/models/{{model}}/replay", tags=["models"])
    async def replayed(signed: Signed, model: ModelPath, body: ReplayBody, token: Csrf = None) -> ReplayResult:
        """What the triggers of a policy would have done to the recorded traffic of a model; it changes nothing."""
        check_token(signed, token)
        check_seen(signed.person, model)
        try:
            triggers = parse_triggers(body.policy)
        except InvalidPolicyError as error:
            raise HTTPException(422, str(error)) from error
        return await replaying.run(model, triggers, body.hours)

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
        text, hours = form.get("policy", "")[:LONGEST_POLICY], _hours(form.get("hours", ""))
        shown = {"model": model, "policy": text, "hours": hours, "most": LONGEST_H}
        try:
            result = await replaying.run(model, parse_triggers(text), hours)
        except InvalidPolicyError as error:
            return render(request, signed, "replay.html", 422, **shown, problem=str(error))
        except SlipwayError as error:
            return render(request, signed, "replay.html", 503, **shown, problem=error.sentence())
        since = result.begin or ""
        recorded = alerts.alerts(sources.seen_by(signed.person), model=model, state="", since=since, limit=100)
        return render(request, signed, "replay.html", **shown, result=result, recorded=recorded)

    return router


def _hours(text: str) -> int:
    return min(LONGEST_H, max(1, int(text))) if text.isascii() and text.isdigit() and len(text) < 4 else HOURS


def _policy_of(reader: Reader, model: str) -> str:
    """Return the triggers of the newest release of a model, as YAML.

    Raises:
        HTTPException: It has no release.
    """
    newest = next((row for row in releases.releases(reader, model=model, limit=500).items if row.model == model), None)
    shown = releases.release(reader, newest.release_id) if newest is not None else None
    if shown is None:
        raise HTTPException(404, f"There is no release of {model} in the index.")
    return show_triggers(shown.policy)
