"""In which threads large bodies are validated for vLLM's OpenAI application, and what becomes of them.

For the engine's interpreter; no engine is started, so an answer ends after the validation of its body.
"""

import asyncio
import json
import sys
import threading
import types
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

ITEM = {"role": "user", "content": "hello"}
TEXT = "hello " * 4_000
BODIES = {
    "/v1/chat/completions": {"messages": [ITEM] * 1_000},
    "/v1/completions": {"prompt": TEXT},
    "/v1/responses": {"input": [ITEM] * 2_048},
    "/v1/embeddings": {"input": TEXT},
    "/tokenize": {"prompt": TEXT},
    "/detokenize": {"tokens": [1] * 4_000},
}
MESSAGES = [{**ITEM, "content": TEXT}]
INVALID = ({"messages": MESSAGES, "user": 7}, {"messages": MESSAGES, "stream_options": {"include_usage": True}})
"""The first is not what a field may have; the second is refused by an exception of vLLM's own."""


def observe() -> dict[str, Any]:
    """Return `{"threads": {path: names}, "invalid": answers}`: with the thread and without."""
    sys.modules["triton_python_backend_utils"] = types.ModuleType("triton_python_backend_utils")
    sys.path[:0] = [str(ROOT / "deploy" / "backends"), str(ROOT / "deploy" / "backends" / "slipway")]
    return asyncio.run(_observe())


async def _observe() -> dict[str, Any]:
    import openai_app
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.entrypoints.pooling.embed import api_router
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from decisions.openai.limits import CostLimits

    app = build_app(make_arg_parser(FlexibleArgumentParser()).parse_args([]), supported_tasks=("generate",))
    app.include_router(api_router.router)
    threads: dict[str, list[str]] = {path: [] for path in BODIES}
    for route in app.routes:
        if route.path in BODIES:
            (field,) = route.dependant.body_params
            field.validate = noting(field.validate, threads[route.path])
    application = openai_app.Application(app, 100_000, None)

    async def ask(path: str, body: dict) -> bytes:
        pieces: list = []
        asked = openai_app.HttpAsk("POST", path, json.dumps({"model": "bot", **body}).encode(), "r", 60.0)
        try:
            await application.answer(asked, pieces.append, CostLimits())
        except Exception as error:
            if not isinstance(error, AttributeError | KeyError):  # what an application without an engine raises
                raise
        return b"".join(piece.body for piece in pieces)

    for path, body in BODIES.items():
        await ask(path, body)
    noted = {path: list(names) for path, names in threads.items()}
    answers = [await ask("/v1/chat/completions", body) for body in INVALID]
    openai_app.body_validation.LARGE_BODY_BYTES = 2**30
    answers += [await ask("/v1/chat/completions", body) for body in INVALID]
    return {"threads": noted, "invalid": [answer.decode() for answer in answers]}


def noting(validate, names: list[str]):
    """Return a function that notes in which thread it validates."""

    def validate_and_note(*args, **kwargs):
        names.append(threading.current_thread().name)
        return validate(*args, **kwargs)

    return validate_and_note
