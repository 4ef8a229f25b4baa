"""The page of the playground: one prompt to two versions of a model, with the person's own key of the gateway."""

from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from services.console.domain.people import Person
from services.console.domain.playground import LONGEST_PROMPT, MOST_TOKENS, Answer, askable
from services.console.ports import Gateway, Routes
from services.console.web.access import CSRF_FIELD, Signed, check_token, read_form
from services.console.web.rendering import Renderer
from services.console.web.sources import ModelPath, check_seen

Version = Annotated[int, Field(ge=0, le=999_999_999)]


class Question(BaseModel):
    """A prompt for two versions, and the person's key of the gateway, which is used for this question only."""

    model_config = ConfigDict(extra="ignore")

    key: Annotated[SecretStr, Field(min_length=1, max_length=500)]
    prompt: Annotated[str, Field(min_length=1, max_length=LONGEST_PROMPT)]
    left: Version
    right: Version
    max_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] = 128


def build_playground(gateway: Gateway, routes: Routes, render: Renderer) -> APIRouter:
    """Return the routes; all need a session."""
    router = APIRouter()

    @router.get("/models/{model}/playground")
    async def page(request: Request, signed: Signed, model: ModelPath) -> Response:
        check_seen(signed.person, model)
        return render(request, signed, "playground.html", model=model, served=askable(await routes.get(model)))

    @router.post("/models/{model}/playground")
    async def submitted(request: Request, signed: Signed, model: ModelPath) -> Response:
        form = await read_form(request)
        check_token(signed, form.get(CSRF_FIELD))
        check_seen(signed.person, model)
        shown = {"model": model, "served": askable(await routes.get(model))}
        try:
            question = Question.model_validate(form)
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            problem = f"{first['loc'][0]}: {first['msg']}"
            return render(request, signed, "playground.html", 422, **shown, problem=problem)
        answers = await ask(gateway, signed.person, model, question)
        return render(request, signed, "playground.html", **shown, question=question, answers=answers)

    return router


async def ask(gateway: Gateway, person: Person, model: str, question: Question) -> tuple[Answer, Answer]:
    """Return what both versions answer, one after the other: on one card each would slow the other one down.

    Raises:
        HTTPException: The person does not see the model, or the key cannot be one.
    """
    check_seen(person, model)
    key = question.key.get_secret_value().strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise HTTPException(422, "The key is none of the gateway: it has characters that no key has.")
    prompt, most = question.prompt, question.max_tokens
    left = await gateway.ask(key, model, question.left, prompt, most)
    return left, await gateway.ask(key, model, question.right, prompt, most)
