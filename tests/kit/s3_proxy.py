"""Stands between a client and the real S3 server: keeps what was asked, and can answer in the server's place."""

import contextlib
import http.client
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from shared.storage.credentials import trusted
from testbed.servers import S3Server


@dataclass(frozen=True)
class Asked:
    """One request: what it was, and when it came and its answer was there (seconds, monotonic)."""

    method: str
    path: str
    began: float
    ended: float


class S3Proxy(ThreadingHTTPServer):
    """`instead` is asked first; when it gives True it has answered the request itself."""

    daemon_threads = True

    def __init__(self, server: S3Server) -> None:
        super().__init__(("127.0.0.1", 0), _Relay)
        store = server.keys.store
        own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        own.load_cert_chain(store.certificate, store.certificate_key)
        self.socket = own.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.upstream, self.trusted = server.port, trusted(server.keys.authority)
        self.endpoint = f"127.0.0.1:{self.server_address[1]}"
        self.asked: list[Asked] = []
        self.connections = 0
        self.instead: Callable[[BaseHTTPRequestHandler], bool] = lambda _request: False

    def get_request(self):
        self.connections += 1
        return super().get_request()

    def of(self, method: str, part: str) -> list[Asked]:
        """Return the requests of a method whose path holds some text."""
        return [request for request in self.asked if request.method == method and part in request.path]


class _Relay(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: S3Proxy

    def _relay(self) -> None:
        self.began = time.monotonic()
        if not self.server.instead(self):
            self._forward()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _relay  # noqa: N815 - as http.server wants them

    def _forward(self) -> None:
        upstream = http.client.HTTPSConnection(
            "127.0.0.1", self.server.upstream, timeout=60, context=self.server.trusted
        )
        with contextlib.closing(upstream):
            upstream.request(self.command, self.path, self.body(), dict(self.headers))
            response = upstream.getresponse()
            data = response.read()
            self.answer(response.status, data, dict(response.getheaders()))

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.server.asked.append(
            Asked(self.command, self.path, self.began, time.monotonic())
        )  # before anybody hears it
        self.send_response(status)
        for name, value in (headers or {}).items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        known = (headers or {}).get("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", known or str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_arguments: object) -> None:
        """Log nothing."""


def refuse(request: Any, status: int, code: str) -> bool:
    """Answer a request with an S3 error."""
    request.body()
    body = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>"
    request.answer(status, body.encode(), {"Content-Type": "application/xml"})
    return True


@contextlib.contextmanager
def standing_before(server: S3Server) -> Iterator[S3Proxy]:
    """Run a proxy in front of a server, with the server's own certificate."""
    proxy = S3Proxy(server)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()
