"""The live stream of changes to open pages (server-sent events)."""

from collections.abc import AsyncIterator
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse

from services.console.hub import Hub
from services.console.web.access import Signed, access_of

STREAM: Final = "/stream"


def build_live(hub: Hub) -> APIRouter:
    """Return the HTTP route of the stream; it requires a session."""
    router = APIRouter()

    @router.get(STREAM)
    async def stream(
        request: Request, signed: Signed, since: Annotated[float | None, Query(ge=0)] = None
    ) -> StreamingResponse:
        """Stream `change` events, each with a list of topics (`model:…`, `release:…`, `alert:…`, kinds, or `all`)."""
        session = signed.session.csrf
        if hub.is_full(session):
            raise HTTPException(503, "Too many pages are open; this one is not live.")

        def still() -> bool:
            now = access_of(request).look(request)
            return now is not None and now.person == signed.person

        lines: AsyncIterator[str] = hub.stream(signed.person.models, session, still, since=since)
        return StreamingResponse(lines, media_type="text/event-stream", headers={"x-accel-buffering": "no"})

    return router
