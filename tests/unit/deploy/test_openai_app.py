"""The deadline of a request in the backend: it holds for the judging of its body, too."""

import asyncio
import json
import sys
import threading
import types
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from decisions.openai.limits import CostLimits

BACKENDS = Path(__file__).resolve().parents[3] / "deploy" / "backends"
CHAT = "/v1/chat/completions"
LARGE = json.dumps({"model": "bot", "messages": [{"role": "user", "content": "x" * 100_000}]}).encode()


@pytest.fixture
def openai_app(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", types.ModuleType("triton_python_backend_utils"))
    monkeypatch.syspath_prepend(str(BACKENDS))
    monkeypatch.syspath_prepend(str(BACKENDS / "slipway"))
    import openai_app

    yield openai_app
    names = ("openai_app", "openai_checks", "openai_record", "engine_tensors", "schema_check", "error_source")
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def asked():
    return []


@pytest.fixture
def application(openai_app, asked):
    """The application over one that answers with the length of the body."""

    async def answer(request: Request) -> JSONResponse:
        asked.append(await request.body())
        return JSONResponse({"length": len(asked[-1])})

    return openai_app.Application(Starlette(routes=[Route(CHAT, answer, methods=["POST"])]), 100_000, None)


async def ask(openai_app, application, body, deadline_s=5.0):
    """Return the status and the record of an answer."""
    pieces = []
    asked = openai_app.HttpAsk("POST", CHAT, body, "r", deadline_s)
    await application.answer(asked, pieces.append, CostLimits())
    assert pieces[-1].last
    (status,) = {piece.status for piece in pieces if piece.status is not None}
    return status, pieces[-1].record


async def test_a_large_body_reaches_the_application(openai_app, application, asked):
    assert (await ask(openai_app, application, LARGE))[0] == 200
    assert asked == [LARGE]


async def test_a_body_that_waits_to_be_judged_beyond_its_deadline_is_answered_and_not_passed_on(
    openai_app, application, asked, monkeypatch
):
    go_on = threading.Event()
    judge = openai_app.openai_checks.judge
    monkeypatch.setattr(openai_app.openai_checks, "judge", lambda *given: (go_on.wait(), judge(*given))[1])
    try:
        async with asyncio.timeout(60):
            answers = await asyncio.gather(*(ask(openai_app, application, LARGE, 0.2) for _ in range(3)))
    finally:
        go_on.set()
    late = {"class": "DeadlineExceeded", "source": "deadline"}
    assert [(status, record["error"]) for status, record in answers] == [(504, late)] * 3
    assert (await ask(openai_app, application, LARGE))[0] == 200
    assert asked == [LARGE]
