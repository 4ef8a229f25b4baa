"""Shared parts of order pages: target and epoch in forms, and the answer page."""

from collections.abc import Awaitable
from typing import Final

from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from contracts.vocabulary import Target
from services.console.domain.order_data import OrderAnswer
from services.console.domain.targets import parse_target
from services.console.ordering import NotAllowedError
from services.console.web.access import SignedIn
from services.console.web.rendering import Renderer
from shared.errors import SlipwayError

EPOCH: Final = r"[0-9]{1,15}"
LONGEST_REASON: Final = 2000


async def answered(
    request: Request, render: Renderer, signed: SignedIn, giving: Awaitable[OrderAnswer], model: str, release: str = ""
) -> Response:
    """Redirect to the page of the published order, or return the page with the reason of its refusal."""
    back = f"/releases/{release}" if release else f"/models/{model}"
    try:
        answer = await giving
    except NotAllowedError as error:
        return await render.in_thread(request, signed, "answer.html", 403, problem=str(error), back=back)
    except SlipwayError as error:
        return await render.in_thread(request, signed, "answer.html", 422, problem=error.sentence(), back=back)
    return RedirectResponse(f"/models/{model}/orders/{answer.order_id}{f'?release={release}' if release else ''}", 303)


def target_in(model: str, text: str) -> Target | None:
    """Parse a target of the model such as `support-bot.v3.int8`; None for an empty text.

    Raises:
        HTTPException: The text is no target of the model.
    """
    if not text:
        return None
    target = parse_target(text)
    if target is None or target.model != model:
        raise HTTPException(400, f"{text[:100]!r} is no target of {model}.")
    return target
