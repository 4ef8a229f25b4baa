"""A server of the OpenAI API without Triton: the toy engine's answers over HTTP, in vLLM's form.

It serves the names that it is given, each with parameters of its own (`deploy/backends/toy/model.py`); `PUT /toy`
replaces them while it runs, as another deployment under the same address would. Like vLLM it takes `cache_salt`; with
`max_model_len` and `renders`, it tells its context, and how it renders any conversation. With `answers_as` its answers
have another name; with a key, it refuses requests below `/v1` without it. Adapters are loaded as in vLLM, and stay as
long as their base; the log-probability of what one answers follows from its weights, and is the base's without any.
"""

import asyncio
import contextlib
import json
import sys
import types
import zlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from testbed.ports import free_port
from testbed.servers import Throwaway, accepts

DEAD = b'{"error": {"message": "EngineCore encountered an issue. See stack trace (above) for the root cause."}}'
"""What vLLM answers once its engine has died."""
BACKENDS = Path(__file__).resolve().parents[1] / "deploy" / "backends"


class OpenAiServer(Throwaway):
    """Such a server as a process, killable and restartable; it forgets nothing that it was given to serve."""

    def __init__(self, folder: Path, name: str = "openai", **served: Mapping[str, str]) -> None:
        self.name, self.port, self.key = name, free_port(), ""
        super().__init__(folder)
        self._served = dict(served)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "testbed.openai_server", str(self.port), json.dumps(self._served), self.key]

    def ready(self) -> bool:
        return accepts(self.port)

    def serve(self, served: Mapping[str, Mapping[str, str]]) -> None:
        """Serve these names, and no others, from now on."""
        self._served = dict(served)
        httpx.put(f"{self.url}/toy", json=self._served, timeout=10).raise_for_status()


class _Served:
    """The names that are served, with their engines."""

    def __init__(self, given: Mapping[str, Mapping[str, str]]) -> None:
        # What runs inside Triton's stub elsewhere.
        sys.modules.setdefault("triton_python_backend_utils", types.ModuleType("triton_python_backend_utils"))
        sys.path[:0] = [folder for folder in (str(BACKENDS), str(BACKENDS / "toy")) if folder not in sys.path]
        self.replace(given)

    def replace(self, given: Mapping[str, Mapping[str, str]]) -> None:
        import toy_api
        import toy_engine

        self.given = {name: dict(parameters) for name, parameters in given.items()}
        self._apis = {}
        for name, parameters in self.given.items():
            engine = toy_engine.ToyEngine(parameters, json.dumps({"name": name}).encode())
            self._apis[name] = toy_api.ToyApi(engine, {"model": parameters.get("answers_as", name)})

    def describe(self, name: str) -> dict[str, Any]:
        told, parent = self.given[name].get("max_model_len"), self.given[name].get("parent")
        return {"id": name, "object": "model", "parent": parent, **({"max_model_len": int(told)} if told else {})}

    def load(self, name: str, folder: str) -> str | None:
        """Load an adapter into the first name; return why it is refused."""
        base = next(iter(self.given))
        config = Path(folder, "adapter_config.json")
        if name in self.given:
            return f"The lora adapter '{name}' has already been loaded."
        if not config.is_file():
            return f"Loading lora {name} failed: No adapter found for {folder}"
        asked = json.loads(config.read_text())
        if asked.get("r", 1) > int(self.given[base].get("max_lora_rank", 16)):
            return f"LoRA rank {asked['r']} is greater than max_lora_rank."
        adapted = {**self.given[base], "parent": base}
        if (weights := Path(folder, "adapter_model.safetensors")).is_file():
            adapted["answer_nll"] = str(0.7 + zlib.crc32(weights.read_bytes()) % 50 / 100)
        self.replace({**self.given, name: adapted})
        return None

    async def answer(self, path: str, raw: bytes) -> AsyncIterator[Any]:
        """Yield the pieces of an answer."""
        from engine_tensors import HttpAsk, HttpPiece

        body = _as_object(raw)
        api = self._apis.get(body.get("model"))
        if api is None:
            message = f"The model `{body.get('model')}` does not exist."
            error = {"message": message, "type": "NotFoundError", "param": "model", "code": 404}
            yield HttpPiece(json.dumps({"error": error}).encode(), {}, 404, (("content-type", "application/json"),))
            return
        body.pop("cache_salt", None)
        body["model"] = self.given[body["model"]].get("answers_as", body["model"])
        ask = HttpAsk("POST", path, json.dumps(body).encode() if "model" in body else raw, "toy", 600.0)
        pieces: asyncio.Queue[HttpPiece] = asyncio.Queue()
        task = asyncio.create_task(api.answer(ask, pieces.put_nowait, lambda: False))
        try:
            while True:
                piece = await pieces.get()
                if piece.record.get("error", {}).get("class") == "EngineDeadError" and piece.status == 500:
                    piece = HttpPiece(DEAD, piece.record, 500, piece.headers, last=True)
                if piece.body:
                    yield piece
                if piece.last:
                    return
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def _as_object(raw: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        body = json.loads(raw)
        if isinstance(body, dict):
            return body
    return {}


def build(given: Mapping[str, Mapping[str, str]]) -> Any:
    """Return the ASGI application."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Route

    served = _Served(given)

    async def models(_request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [served.describe(name) for name in served.given]})

    async def tokenize(request: Request) -> Response:
        text = served.given.get((await request.json())["model"], {}).get("renders")
        return JSONResponse({"tokens": list(map(ord, text))}) if text else Response(status_code=404)

    async def detokenize(request: Request) -> Response:
        return JSONResponse({"prompt": "".join(map(chr, (await request.json())["tokens"]))})

    async def replace(request: Request) -> Response:
        asked = await request.json()
        loaded = {name: given for name, given in served.given.items() if given.get("parent") in asked}
        served.replace({**asked, **{name: {**given, **asked[given["parent"]]} for name, given in loaded.items()}})
        return Response(status_code=204)

    async def load(request: Request) -> Response:
        asked = await request.json()
        refused = served.load(asked["lora_name"], asked["lora_path"])
        return Response(refused or "Success", 400 if refused else 200)

    async def unload(request: Request) -> Response:
        name = (await request.json())["lora_name"]
        is_there = "parent" in served.given.get(name, {})
        served.replace({each: given for each, given in served.given.items() if each != name or not is_there})
        return Response("Success" if is_there else "not found", 200 if is_there else 404)

    async def answer(request: Request) -> Response:
        pieces = served.answer(request.url.path, await request.body())
        first = await anext(pieces)

        async def rest() -> AsyncIterator[bytes]:
            async with contextlib.aclosing(pieces):
                yield first.body
                async for piece in pieces:
                    yield piece.body

        return StreamingResponse(rest(), first.status, dict(first.headers))

    paths = ("/v1/chat/completions", "/v1/completions")
    return Starlette(
        routes=[
            Route("/v1/models", models),
            Route("/toy", replace, methods=["PUT"]),
            Route("/v1/load_lora_adapter", load, methods=["POST"]),
            Route("/v1/unload_lora_adapter", unload, methods=["POST"]),
            Route("/tokenize", tokenize, methods=["POST"]),
            Route("/detokenize", detokenize, methods=["POST"]),
            *(Route(path, answer, methods=["POST"]) for path in paths),
        ]
    )


def guarded(app: Any, key: str) -> Any:
    """Return an application that refuses requests below `/v1` without a key, as vLLM does."""
    from starlette.responses import JSONResponse

    async def ask(scope: Any, receive: Any, send: Any) -> None:
        is_open = scope["type"] != "http" or not scope["path"].startswith("/v1")
        if is_open or dict(scope["headers"]).get(b"authorization") == f"Bearer {key}".encode():
            await app(scope, receive, send)
        else:
            await JSONResponse({"error": "Unauthorized"}, 401)(scope, receive, send)

    return ask


def main() -> None:
    import uvicorn

    app = build(json.loads(sys.argv[2]))
    if sys.argv[3]:
        app = guarded(app, sys.argv[3])
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")


if __name__ == "__main__":
    main()
