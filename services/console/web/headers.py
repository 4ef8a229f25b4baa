"""Security headers of every answer, and early refusal of requests."""

from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
"""Content security policy of pages: no inline scripts or styles, no other hosts, frames of reports only."""
REPORT: Final = "/evidence"
"""Path of reports by other programs (Evidently), with scripts that must not act as the person."""
REPORT_POLICY: Final = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; frame-ancestors 'self'; form-action 'none'; base-uri 'none'"
)
"""Content security policy of reports: an opaque origin without cookies, console access or network requests."""
ALWAYS: Final = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=()",
}
PROBES: Final = ("/healthz", "/readyz", "/metrics")
LONGEST_BODY: Final = 64 * 1024


class Guard:
    """Refuses requests for other hosts and cross-site orders, and adds the security headers.

    Args:
        app: The application.
        url: URL that people open.
        https: Whether to send HSTS.
    """

    def __init__(self, app: ASGIApp, url: str, *, https: bool) -> None:
        self._app, self._url = app, url
        self._hosts = set(names_of(url))
        self._headers = {**ALWAYS, **({"strict-transport-security": "max-age=31536000"} if https else {})}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it before the application sees it."""
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        refusal = self._refuse(scope["method"], Headers(scope=scope))

        async def add_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers[name] = value
                if scope["path"] == REPORT:
                    headers["content-security-policy"], headers["x-frame-options"] = REPORT_POLICY, "SAMEORIGIN"
                if not scope["path"].startswith("/assets/"):
                    headers["cache-control"] = "no-store"
            await send(message)

        if refusal is not None:
            await PlainTextResponse(refusal[1], refusal[0])(scope, receive, add_headers)
            return
        await self._app(scope, receive, add_headers)

    def _refuse(self, method: str, headers: Headers) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if host not in self._hosts:
            return 421, f"This console is {self._url}, not {host[:100]!r}: open that address (CONSOLE_URL)."
        if method in ("GET", "HEAD"):
            return None
        length = headers.get("content-length", "0")
        if headers.get("transfer-encoding") or not length.isdigit() or int(length) > LONGEST_BODY:
            return 413, f"The request has {length[:20]} bytes; the limit is {LONGEST_BODY}."
        origin = headers.get("origin")
        if origin is not None and origin != self._url and urlsplit(origin).netloc not in self._hosts:
            return 403, f"The request comes from a page of {origin[:100]!r}; orders come from {self._url} only."
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return 403, f"The request comes from a page of another site; orders come from {self._url} only."
        return None


def names_of(url: str) -> Iterable[str]:
    """Yield the accepted values of the `Host` header; loopback has two names."""
    parts = urlsplit(url)
    yield parts.netloc
    if parts.hostname in ("127.0.0.1", "localhost"):
        port = "" if parts.port is None else f":{parts.port}"
        yield from (f"127.0.0.1{port}", f"localhost{port}")
