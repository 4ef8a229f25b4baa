"""An HTTP server that receives notifications, and answers as a test says: with errors, slowly, without an end."""

import http.server
import json
import threading
from dataclasses import dataclass, field
from typing import Any, Self

from tests.kit.local_http import LocalHttp


@dataclass
class Received:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def data(self) -> Any:
        return json.loads(self.body)


@dataclass
class ReceiverServer(LocalHttp):
    """Notes every request. `answers` are used up one by one, then it answers 202.

    An answer is a status, `hang`, `redirect`, or `huge`: an answer of 500 that does not end.
    """

    answers: list[int | str] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.stopped = threading.Event()
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        self.stopped.set()
        super().__exit__(*error)

    def at(self, path: str) -> list[Received]:
        """Return what came to a path."""
        return [each for each in self.received if each.path == path]

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                server.received.append(Received(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                answer = server.answers.pop(0) if server.answers else 202
                if answer == "hang":
                    server.stopped.wait(30)
                    return
                if answer == "huge":
                    self._send_without_end()
                    return
                self.send_response(307 if answer == "redirect" else int(answer))
                if answer == "redirect":
                    self.send_header("location", f"{server.url}/elsewhere")
                self.send_header("content-length", "0")
                self.end_headers()

            def _send_without_end(self) -> None:
                self.send_response(500)
                self.end_headers()
                try:
                    while not server.stopped.is_set():
                        self.wfile.write(b"x" * 65536)
                except OSError:
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                """Write no log."""

        return Handler
