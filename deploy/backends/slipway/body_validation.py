"""Validation of large bodies by vLLM's own classes, in a thread.

vLLM's application validates bodies on the event loop of all requests: 0.12 s for 2,048 items of `/v1/responses`, during
which no answer gets a token.
"""

import contextvars
from collections.abc import Iterable, Mapping
from typing import Any

from engine_tensors import HttpAsk
from openai_checks import LARGE_BODY_BYTES, JudgingThread

Outcome = tuple[Any, list[dict[str, Any]]] | Exception
"""FastAPI's result (object, errors) of a validation, or its exception."""

_outcome: contextvars.ContextVar[Outcome | None] = contextvars.ContextVar("outcome", default=None)


class BodyValidation:
    """Validates bodies for a FastAPI application, which then uses the outcomes."""

    def __init__(self, routes: Iterable[Any], thread: JudgingThread) -> None:
        """Make each path with a single body parameter use a validation outcome, if one exists."""
        self._thread = thread
        self._fields: dict[str, Any] = {}
        for route in routes:
            fields = getattr(getattr(route, "dependant", None), "body_params", ())
            if len(fields) == 1 and fields[0] is route.body_field:
                self._fields[route.path] = fields[0].validate
                fields[0].validate = _use_outcome(fields[0].validate)

    async def validate(self, ask: HttpAsk, body: Mapping[str, Any]) -> Outcome | None:
        """Return the outcome for a large body; None for a small one, which the application validates itself."""
        validate = self._fields.get(ask.path)
        if validate is None or len(ask.body) <= LARGE_BODY_BYTES:
            return None
        return await self._thread.run(ask.holder, _find_outcome, validate, body)


def use(outcome: Outcome | None) -> contextvars.Token[Outcome | None]:
    """Use an outcome in this context until `forget`."""
    return _outcome.set(outcome)


def forget(token: contextvars.Token[Outcome | None]) -> None:
    """End what `use` began."""
    _outcome.reset(token)


def _find_outcome(validate: Any, body: Mapping[str, Any]) -> Outcome:
    """Return the outcome of a body's validation, exceptions included."""
    try:
        return validate(body, {}, loc=("body",))
    except Exception as error:  # noqa: BLE001 - raised again by `use_outcome`
        return error


def _use_outcome(validate: Any) -> Any:
    def use_outcome(value: Any, values: Any = None, *, loc: Any = ()) -> Any:
        outcome = _outcome.get()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome or validate(value, values or {}, loc=loc)

    return use_outcome
