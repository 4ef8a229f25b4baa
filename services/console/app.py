"""The console's HTTP application: pages, live stream and error handling."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount

from services.console.adapters.index import Index
from services.console.adapters.oidc import Provider, SignInRefusedError
from services.console.adapters.people import People
from services.console.adapters.sessions import Sessions
from services.console.domain.incident import Incident
from services.console.domain.people import Person
from services.console.endpoints import Endpoints
from services.console.follower import Progress
from services.console.hub import Hub
from services.console.ordering import NotAllowedError, Ordering
from services.console.ports import Artifacts, Gateway, Orders, Routes
from services.console.protection import Protection
from services.console.queries.incidents import incidents
from services.console.settings import ConsoleSettings
from services.console.web.access import Access, NotSignedInError
from services.console.web.endpoints import build_endpoints
from services.console.web.headers import REPORT, Guard
from services.console.web.incidents import build_incidents
from services.console.web.live import STREAM, build_live
from services.console.web.login import ask_to_sign_in, build_login
from services.console.web.pages import build_pages
from services.console.web.playground import build_playground
from services.console.web.rendering import Assets, Renderer
from services.console.web.sources import Sources
from shared.errors import SlipwayError, Transient
from shared.messaging.bus import Bus
from shared.runtime.clock import Clock

SERVICE = "console"
TEXT = (REPORT, STREAM)
"""Paths that answer errors as plain text instead of a page."""


def build(
    bus: Bus,
    *,
    index: Index,
    progress: Progress,
    hub: Hub,
    sessions: Sessions,
    people: People,
    orders: Orders,
    routes: Routes,
    artifacts: Artifacts,
    endpoints: Endpoints,
    protection: Protection,
    gateway: Gateway | None,
    provider: Provider | None,
    settings: ConsoleSettings,
    clock: Clock,
) -> FastAPI:
    """Return the HTTP application; the console handles no events and publishes none as itself."""
    access = Access(sessions, people, https=settings.is_https)
    sources = Sources(index, hub, Ordering(orders, routes, index, clock, settings.answer_s), artifacts)

    def incidents_of(person: Person) -> tuple[Incident, ...]:
        return incidents(sources.seen_by(person), clock.now(), sessions.acknowledged)

    pages = Renderer(clock, progress, protection, incidents_of, has_playground=gateway is not None)
    app = FastAPI(
        openapi_url=None,
        middleware=[Middleware(Guard, url=settings.url, https=settings.is_https)],
    )
    app.state.access, app.state.bus = access, bus
    app.include_router(build_live(hub))
    app.include_router(build_login(access, pages, provider, url=settings.url, clock=clock))
    app.include_router(build_pages(sources, pages))
    if gateway is not None:
        app.include_router(build_playground(gateway, routes, pages))
    app.include_router(build_incidents(sources, pages))
    app.include_router(build_endpoints(endpoints, pages))
    app.router.routes.append(Mount("/assets", Assets()))
    _handle_errors(app, Answers(access, pages))
    return app


class Answers:
    """Answers errors: plain text for reports and the live stream, a page elsewhere."""

    def __init__(self, access: Access, pages: Renderer) -> None:
        self._access, self._pages = access, pages

    async def __call__(self, request: Request, status: int, message: str) -> Response:
        """Return the answer to an error."""
        if request.url.path in TEXT:
            return PlainTextResponse(message, status)
        return await self._pages.in_thread(request, self._access.find(request), "problem.html", status, problem=message)

    async def not_signed_in(self, request: Request, _error: Exception) -> Response:
        """Answer a request without a session: ask to sign in."""
        if request.url.path in TEXT:
            return await self(request, 401, "You are not signed in: `slipway open` makes a link.")
        return ask_to_sign_in(request, self._pages)

    async def known(self, request: Request, error: Exception) -> Response:
        """Answer an error with a message for people."""
        if isinstance(error, SlipwayError):
            return await self(request, 503 if isinstance(error, Transient) else 422, error.sentence())
        if isinstance(error, HTTPException):
            return await self(request, error.status_code, str(error.detail))
        if isinstance(error, SignInRefusedError):
            return await self(request, 502, f"{error}.")
        return await self(request, 403, str(error))

    async def invalid(self, request: Request, error: Exception) -> Response:
        """Answer a request with an invalid parameter."""
        assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this class
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return await self(request, 422, f"{where}: {first['msg']}")

    async def defect(self, request: Request, _error: Exception) -> Response:
        """Answer a request that failed by a defect of the console."""
        text = "The console failed; its log says why."
        if request.url.path in TEXT:
            return PlainTextResponse(text, 500)
        # without the person: reading the index may be the failure
        return await self._pages.in_thread(request, None, "problem.html", 500, problem=text)


def _handle_errors(app: FastAPI, answers: Answers) -> None:
    app.add_exception_handler(NotSignedInError, answers.not_signed_in)
    app.add_exception_handler(RequestValidationError, answers.invalid)
    app.add_exception_handler(Exception, answers.defect)
    for kind in (NotAllowedError, SlipwayError, SignInRefusedError, HTTPException):
        app.add_exception_handler(kind, answers.known)
