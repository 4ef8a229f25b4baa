"""The page of the metrics: rendered in a thread, one at a time, so that answers in progress are not delayed."""

import asyncio
import gzip
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder, gzip_accepted
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

_OPEN_METRICS = "application/openmetrics-text"


class _Form(NamedTuple):
    """How a page is written: what callers ask for in detail is left out, so that there are four forms."""

    media_type: str
    is_compressed: bool


class MetricsPage:
    """An ASGI application that shows a registry.

    With the metrics of several processes, their files are read and added up: 100 ms for 8 workers and 40 targets.
    Callers that wait for the same form get the same page, so that many callers cost no more than two pages of each.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._turn = asyncio.Lock()
        self._next: dict[_Form, asyncio.Task[Response]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a page that is not older than the request."""
        headers = Headers(scope=scope)
        media_type = _OPEN_METRICS if _OPEN_METRICS in headers.get("accept", "") else "text/plain"
        form = _Form(media_type, gzip_accepted(headers.get("accept-encoding", "")))
        if form not in self._next:
            self._next[form] = asyncio.ensure_future(self._render(form))
        page = await asyncio.shield(self._next[form])
        await page(scope, receive, send)

    async def _render(self, form: _Form) -> Response:
        async with self._turn:
            del self._next[form]  # who asks from now on may see what changes from now on
            return await asyncio.to_thread(self._render_now, form)

    def _render_now(self, form: _Form) -> Response:
        encode, media_type = choose_encoder(form.media_type)
        body = encode(self._registry)
        if form.is_compressed:
            return Response(gzip.compress(body), headers={"content-encoding": "gzip"}, media_type=media_type)
        return Response(body, media_type=media_type)
