"""The playground page: one prompt to two versions, with the person's API key.

The process keeps the key in memory for the session.
"""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from services.console.domain.people import Person
from services.console.domain.playground import LONGEST_PROMPT, MOST_TOKENS, Answer, askable
from services.console.ports import Gateway, Routes
from services.console.web.access import CSRF_FIELD, Signed, access_of, check_token, read_form
from services.console.web.rendering import Renderer
from services.console.web.sources import ModelPath, check_seen

MOST_KEYS: Final = 1000
"""Maximum API keys kept; the oldest is dropped first."""
Version = Annotated[int, Field(ge=0, le=999_999_999)]


class Question(BaseModel):
    """A prompt for two versions, and the person's gateway API key."""

    model_config = ConfigDict(extra="ignore")

    key: Annotated[SecretStr, Field(min_length=1, max_length=500)]
    prompt: Annotated[str, Field(min_length=1, max_length=LONGEST_PROMPT)]
    left: Version
    right: Version
    max_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] = 128


def build_playground(gateway: Gateway, routes: Routes, render: Renderer) -> APIRouter:
    """Return the HTTP routes of the playground; all require a session."""
    router = APIRouter()

    async def shown(request: Request, signed: Signed, model: str) -> dict[str, Any]:
        has_key = signed.session.csrf in access_of(request).keys
        return {"model": model, "served": askable(await routes.get(model)), "has_key": has_key}

    @router.get("/models/{model}/playground")
    async def page(request: Request, signed: Signed, model: ModelPath, left: int = -1, right: int = -1) -> Response:
        check_seen(signed.person, model)
        return await render.in_thread(
            request, signed, "playground.html", **await shown(request, signed, model), chosen=(left, right)
        )

    @router.post("/models/{model}/playground")
    async def submitted(request: Request, signed: Signed, model: ModelPath) -> Response:
        form, keys = await read_form(request), access_of(request).keys
        check_token(signed, form.get(CSRF_FIELD))
        check_seen(signed.person, model)
        try:
            question = Question.model_validate(form | {"key": form.get("key") or keys.get(signed.session.csrf, "")})
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            problem = f"{first['loc'][0]}: {first['msg']}"
            values = {**await shown(request, signed, model), "chosen": (-1, -1), "problem": problem}
            return await render.in_thread(request, signed, "playground.html", 422, **values)
        answers = await ask(gateway, signed.person, model, question)
        keys.pop(signed.session.csrf, None)
        refused = any(answer.problem.startswith(("401", "403")) for answer in answers)
        if not refused and access_of(request).look(request) is not None:  # the session may have ended meanwhile
            keys[signed.session.csrf] = question.key.get_secret_value()
        if len(keys) > MOST_KEYS:
            del keys[next(iter(keys))]
        values = {**await shown(request, signed, model), "chosen": (question.left, question.right)}
        return await render.in_thread(request, signed, "playground.html", **values, question=question, answers=answers)

    return router


async def ask(gateway: Gateway, person: Person, model: str, question: Question) -> tuple[Answer, Answer]:
    """Return both versions' answers, requested one after the other so that neither slows the other.

    Raises:
        HTTPException: The person may not see the model, or the key is malformed.
    """
    check_seen(person, model)
    key = question.key.get_secret_value().strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise HTTPException(422, "The key is none of the gateway: it has characters that no key has.")
    prompt, most = question.prompt, question.max_tokens
    left = await gateway.ask(key, model, question.left, prompt, most)
    return left, await gateway.ask(key, model, question.right, prompt, most)
