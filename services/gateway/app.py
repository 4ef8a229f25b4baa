"""The gateway's HTTP applications: the OpenAI endpoints for callers; readiness and metrics on a port of their own."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contracts.version import VERSION
from contracts.vocabulary import Environment
from decisions.openai.paths import PATHS
from decisions.openai.requests import check_path
from services.gateway.api.endpoint import Endpoint
from services.gateway.callers.callers import Callers
from services.gateway.dependencies import Dependencies
from services.gateway.domain import requests
from services.gateway.domain.errors import Problem, RequestRejected, model_not_found
from services.gateway.domain.routing import list_models, names_like
from services.gateway.ports import NewId
from services.gateway.routing.tables import RouteTable
from services.gateway.server.http import problem_response
from services.gateway.server.worker_state import MetricsPage, WorkerState
from shared.messaging.bus import Bus
from shared.runtime.process_metrics import exposed_registry

SERVICE = "gateway"
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_CODES = {404: "unknown_url", 405: "method_not_allowed"}
_DEFECT = Problem(500, "The gateway failed; its log says why.", "server_error", code="internal_error")


def build(dependencies: Dependencies, bus: Bus, state: WorkerState) -> "Applications":
    """Return the HTTP applications; the bus provides the metrics registry only: the gateway handles no events."""
    page = MetricsPage(exposed_registry(bus.metrics), state.refresh)
    # for probes and scrapes
    admin = Starlette(routes=[alive_route(), ready_route(dependencies, state), Mount("/metrics", page)])
    return Applications(Application(Endpoint(dependencies), _rest(dependencies), dependencies.new_id), admin)


def _rest(dependencies: Dependencies) -> Starlette:
    """Return the application for paths that no target answers."""
    created = int(dependencies.clock.now().timestamp())

    async def rejected(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestRejected)  # noqa: S101 - registered for this class
        dependencies.metrics.count_rejected(error.problem.status, getattr(request.state, "environment", None))
        return problem_response(error.problem)

    return Starlette(
        routes=[
            *model_routes(dependencies.tables, dependencies.callers, created),
            alive_route(),
        ],
        exception_handlers={HTTPException: _http_error, RequestRejected: rejected, 500: _defect},
    )


@dataclass(frozen=True)
class Applications:
    """The applications of two ports: `api` for callers, `admin` for probes and scrapes."""

    api: ASGIApp
    admin: ASGIApp


class Application:
    """The HTTP application for callers; requests for targets bypass Starlette's middlewares."""

    def __init__(self, endpoint: ASGIApp, rest: ASGIApp, new_id: NewId) -> None:
        self._endpoint = endpoint
        self._rest = rest
        self._new_id = new_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request and add its `x-request-id`; an exception before the response starts is a 500."""
        given_id = Headers(scope=scope).get("x-request-id", "") if scope["type"] == "http" else ""
        request_id = given_id if _REQUEST_ID.fullmatch(given_id) else self._new_id()
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"].append((b"x-request-id", request_id.encode()))
            await send(message)

        if scope["type"] != "http" or scope["path"] not in PATHS:
            await self._rest(scope, receive, send_with_id)
            return
        scope["slipway.request_id"] = request_id
        if refusal := check_path(scope["method"], scope["path"]):
            problem = Problem(refusal.status, refusal.message, code=refusal.code)
            await problem_response(problem, {"Allow": "POST"})(scope, receive, send_with_id)
            return
        try:
            await self._endpoint(scope, receive, send_with_id)
        except Exception:
            if not started:
                await problem_response(_DEFECT)(scope, receive, send_with_id)
            raise


def model_routes(tables: Mapping[Environment, RouteTable], callers: Callers, created: int) -> list[Route]:
    """Return `/v1/models` and `/v1/models/{name}`, limited to the caller's models; `created` is Unix time."""

    def names(request: Request) -> tuple[list[str], Mapping[str, str]]:
        """Return the caller's models, and headers with the key's remaining limits; a listing counts as a request."""
        environment = request.state.environment = requests.read_environment(request.headers.getlist(requests.HEADER))
        caller = callers.authenticate(request.headers.getlist("authorization"), environment)
        with callers.admit(caller) as spending:
            routes = [route for route in tables[environment].all() if caller.opens(route.model)]
            return [name for route in routes for name in list_models(route)], spending.headers

    def model_card(name: str) -> dict[str, object]:
        return {"id": name, "object": "model", "created": created, "owned_by": "slipway"}

    async def models(request: Request) -> Response:
        opened, headers = names(request)
        return JSONResponse({"object": "list", "data": [model_card(name) for name in opened]}, headers=headers)

    async def model(request: Request) -> Response:
        name = request.path_params["name"]
        opened, headers = names(request)
        if name not in opened:
            return problem_response(model_not_found(name, names_like(name, opened)), headers)
        return JSONResponse(model_card(name), headers=headers)

    return [Route("/v1/models", models), Route("/v1/models/{name:path}", model)]


def alive_route() -> Route:
    """Return the liveness route `/healthz`, always 200."""

    async def healthz(_request: Request) -> Response:
        return JSONResponse({"service": SERVICE, "status": "alive"})

    return Route("/healthz", healthz)


def ready_route(dependencies: Dependencies, state: WorkerState) -> Route:
    """Return the readiness route `/readyz`: 200 or 503."""
    table, staging = dependencies.tables["production"], dependencies.tables["staging"]

    async def readyz(_request: Request) -> Response:
        ready, workers = state.check()
        active = [f"{drill.drill_id} on {drill.environment} {drill.target}" for drill in dependencies.drills.active()]
        checks = {
            "bus": "ok" if state.is_connected() else "not connected",
            "routes": f"{len(table.all())} ({'live' if table.live else 'saved'})"
            + (f"; {table.problem}" if table.problem else ""),
            "staging": str(len(staging.all())),
            "keys": state.describe_keys(),
            "drills": ", ".join(active) or "none",
            "telemetry": dependencies.telemetry.problem or "ok",
            "workers": workers,
        }
        body = {"service": SERVICE, "version": VERSION, "ready": ready, "checks": checks}
        return JSONResponse(body, 200 if ready else 503)

    return Route("/readyz", readyz)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class
    message, code = f"{request.method} {request.url.path}: {error.detail}", _CODES.get(error.status_code)
    refusal = check_path(request.method, request.url.path)
    if refusal is not None and code == refusal.code:  # names the existing paths
        message = refusal.message
    return problem_response(Problem(error.status_code, message, code=code), error.headers)


async def _defect(_request: Request, _error: Exception) -> Response:
    return problem_response(_DEFECT)
