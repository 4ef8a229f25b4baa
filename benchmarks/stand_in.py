"""An engine that speaks HTTP: the toy engine's own API under uvicorn, for proxies that know nothing of Triton.

Its answers are the bytes that the toy engine sends through Triton, token by token at the same interval.
Run: python benchmarks/stand_in.py PORT TOKEN_DELAY_MS
"""

# ruff: noqa: E402 - what is imported below needs these paths
import asyncio
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "deploy" / "backends"), str(ROOT / "deploy" / "backends" / "toy")]
sys.modules["triton_python_backend_utils"] = ModuleType("triton_python_backend_utils")  # only Triton has it

import toy_api
import uvicorn
from engine_tensors import HttpAsk, HttpPiece
from starlette.requests import Request
from starlette.types import Receive, Scope, Send
from toy_engine import ToyEngine


class StandIn:
    """The API as an ASGI application."""

    def __init__(self, token_delay_ms: str) -> None:
        engine = ToyEngine({"token_delay_ms": token_delay_ms}, b'{"version": 1}')
        self._api = toy_api.ToyApi(engine, {"model": "toy", "fingerprint": "fp_stand_in"})
        self._numbers = iter(range(10**9))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        body = await Request(scope, receive).body()
        ask = HttpAsk(scope["method"], scope["path"], body, f"request-{next(self._numbers)}", 60.0, "toy")
        pieces: asyncio.Queue[HttpPiece] = asyncio.Queue()
        answering = asyncio.create_task(self._api.answer(ask, pieces.put_nowait, lambda: False))
        while True:
            piece = await pieces.get()
            if piece.status is not None:
                headers = [(name.encode(), value.encode()) for name, value in piece.headers]
                await send({"type": "http.response.start", "status": piece.status, "headers": headers})
            if piece.body or piece.last:
                await send({"type": "http.response.body", "body": piece.body, "more_body": not piece.last})
            if piece.last:
                await answering
                return


def main() -> None:
    port, token_delay_ms = sys.argv[1:]
    app = StandIn(token_delay_ms)
    uvicorn.run(app, host="127.0.0.1", port=int(port), access_log=False, log_level="warning", lifespan="off")


if __name__ == "__main__":
    main()
