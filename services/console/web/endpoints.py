"""The endpoints page: each Triton's targets, memory and load."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from services.console.endpoints import Endpoints
from services.console.web.access import Signed
from services.console.web.rendering import Renderer


def build_endpoints(endpoints: Endpoints, render: Renderer) -> APIRouter:
    """Return the HTTP route of the page; it requires a session."""
    router = APIRouter()

    @router.get("/endpoints")
    async def page(request: Request, signed: Signed) -> Response:
        shown = await endpoints.seen_by(signed.person)
        return await render.in_thread(request, signed, "endpoints.html", endpoints=shown)

    return router
