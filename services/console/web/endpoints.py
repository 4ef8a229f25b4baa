"""API and page of the endpoints: what each Triton serves, holds and takes."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from services.console.domain.endpoint_screen import EndpointRow
from services.console.endpoints import Endpoints
from services.console.web.access import Signed
from services.console.web.api import PREFIX
from services.console.web.rendering import Renderer


def build_endpoints(endpoints: Endpoints, render: Renderer) -> APIRouter:
    """Return the routes; all need a session."""
    router = APIRouter()

    @router.get(f"{PREFIX}/endpoints", tags=["models"])
    async def all_endpoints(signed: Signed) -> tuple[EndpointRow, ...]:
        """The Tritons of the fleets: state, targets with their roles, memory, and what gateways have there."""
        return await endpoints.seen_by(signed.person)

    @router.get("/endpoints", include_in_schema=False)
    async def page(request: Request, signed: Signed) -> Response:
        return render(request, signed, "endpoints.html", endpoints=await endpoints.seen_by(signed.person))

    return router
