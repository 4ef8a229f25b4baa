"""The gateway's HTTP application."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, make_asgi_app
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from services.gateway.completions import Completions, Parts
from services.gateway.domain import environments
from services.gateway.domain.answers import model_card
from services.gateway.domain.errors import Problem, Refused, model_not_found
from services.gateway.domain.routing import list_models
from services.gateway.http import problem_response


def build(
    parts: Parts,
    *,
    registry: CollectorRegistry,
    bus_connected: Callable[[], bool],
    telemetry_trouble: Callable[[], str | None],
) -> Starlette:
    """Return the application: the OpenAI endpoints, and those that say how the gateway is."""
    table, staging = parts.tables["production"], parts.tables["staging"]
    created = int(parts.clock.now().timestamp())
    parts.metrics.watch_routes(table)

    def names(request: Request) -> list[str]:
        environment = environments.read_environment(request.headers.getlist(environments.HEADER))
        return [name for route in parts.tables[environment].all() for name in list_models(route)]

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [model_card(name, created) for name in names(request)]})

    async def model(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in names(request):
            return problem_response(model_not_found(name))
        return JSONResponse(model_card(name, created))

    async def healthz(_request: Request) -> Response:
        return JSONResponse({"service": "gateway", "status": "alive"})

    async def readyz(_request: Request) -> Response:
        connected = bus_connected()
        parts.metrics.bus_connected.set(connected)
        # Saved routes are enough: a gateway must serve without the bus. Without either it knows nothing.
        ready = connected or bool(table.all())
        on = parts.drills.under_way()
        body = {
            "service": "gateway",
            "ready": ready,
            "checks": {
                "bus": "ok" if connected else "not connected",
                "routes": f"{len(table.all())} ({'live' if table.live else 'saved'})"
                + (f"; {table.trouble}" if table.trouble else ""),
                "staging": str(len(staging.all())),
                "drills": ", ".join(f"{one.drill_id} on {one.environment} {one.target}" for one in on) or "none",
                "telemetry": telemetry_trouble() or "ok",
            },
        }
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
        exception_handlers={HTTPException: _http_error, Refused: _refused, 500: _defect},
    )


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class
    message = f"{request.method} {request.url.path}: {error.detail}"
    return problem_response(Problem(error.status_code, message), error.headers)


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)  # noqa: S101 - registered for this class
    return problem_response(error.problem)


async def _defect(_request: Request, _error: Exception) -> Response:
    return problem_response(
        Problem(500, "The gateway failed; its log says why.", "server_error", code="internal_error")
    )
