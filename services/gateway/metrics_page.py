"""The page of the metrics: rendered in a thread, one at a time, so that answers in progress are not delayed."""

import asyncio
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, make_wsgi_app
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send


class _Page(NamedTuple):
    """A rendered page."""

    status: int
    headers: dict[str, str]
    body: bytes


class MetricsPage:
    """An ASGI application that shows a registry.

    With the metrics of several processes, their files are read and added up: 100 ms for 8 workers and 40 targets.
    Callers that wait for the same form get the same page, so that many callers cost no more than two.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._application = make_wsgi_app(registry)
        self._turn = asyncio.Lock()
        self._next: dict[tuple[str, str], asyncio.Task[_Page]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a page that is not older than the request."""
        headers = Request(scope).headers
        form = (headers.get("accept", ""), headers.get("accept-encoding", ""))
        if form not in self._next:
            self._next[form] = asyncio.ensure_future(self._render(form))
        page = await asyncio.shield(self._next[form])
        await Response(page.body, page.status, headers=page.headers)(scope, receive, send)

    async def _render(self, form: tuple[str, str]) -> _Page:
        async with self._turn:
            del self._next[form]  # who asks from now on may see what changes from now on
            return await asyncio.to_thread(self._render_now, *form)

    def _render_now(self, accept: str, encoding: str) -> _Page:
        environment = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "QUERY_STRING": ""}
        environment |= {"HTTP_ACCEPT": accept, "HTTP_ACCEPT_ENCODING": encoding}
        head: list[Any] = []
        parts = self._application(environment, lambda *given: head.extend(given))
        status, headers = head
        return _Page(int(status.split()[0]), dict(headers), b"".join(parts))
