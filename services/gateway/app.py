"""The gateway's HTTP application."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, make_asgi_app
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from .completions import Completions, Parts
from .domain.answers import model_card
from .domain.errors import Problem, model_not_found
from .domain.routing import list_models
from .http import problem_response


def build(
    parts: Parts, *, registry: CollectorRegistry, bus_connected: Callable[[], bool],
    telemetry_trouble: Callable[[], str | None],
) -> Starlette:  # fmt: skip
    """Give the application: the OpenAI endpoints, and those that say how the gateway is."""
    table = parts.table
    created = int(parts.clock.now().timestamp())

    async def models(_request: Request) -> Response:
        names = [name for route in table.all() for name in list_models(route)]
        return JSONResponse({"object": "list", "data": [model_card(name, created) for name in names]})

    async def model(request: Request) -> Response:
        name = request.path_params["name"]
        if not any(name in list_models(route) for route in table.all()):
            return problem_response(model_not_found(name))
        return JSONResponse(model_card(name, created))

    async def healthz(_request: Request) -> Response:
        return JSONResponse({"service": "gateway", "status": "alive"})

    async def readyz(_request: Request) -> Response:
        connected = bus_connected()
        parts.metrics.bus_connected.set(connected)
        # Saved routes are enough: a gateway must serve without the bus. Without either it knows nothing.
        ready = connected or bool(table.all())
        body = {
            "service": "gateway", "ready": ready,
            "checks": {
                "bus": "ok" if connected else "not connected",
                "routes": f"{len(table.all())} ({'live' if table.live else 'saved'})",
                "telemetry": telemetry_trouble() or "ok",
            },
        }  # fmt: skip
        return JSONResponse(body, 200 if ready else 503)

    return Starlette(
        routes=[
            Route("/v1/chat/completions", Completions("chat", parts), methods=["POST"]),
            Route("/v1/completions", Completions("completion", parts), methods=["POST"]),
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", model),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Mount("/metrics", make_asgi_app(registry=registry)),
        ],
        exception_handlers={HTTPException: _http_error, 500: _defect},
    )


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class
    message = f"{request.method} {request.url.path}: {error.detail}"
    return problem_response(Problem(error.status_code, message), error.headers)


async def _defect(_request: Request, _error: Exception) -> Response:
    return problem_response(
        Problem(500, "The gateway failed; its log says why.", "server_error", code="internal_error")
    )
