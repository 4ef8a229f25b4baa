"""A receiver of alerts, so that the notifier has something to do."""

import base64
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Receiver:
    """Accepts notifications on a free loopback port, and counts them."""

    def __init__(self, folder: Path) -> None:
        receiver = self
        self.received = 0

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                receiver.received += 1
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
        self.file = folder / "receivers.toml"
        self.file.write_text(
            f'[[receiver]]\nname = "soak"\nkind = "webhook"\nurl = "http://127.0.0.1:{self._server.server_port}/"\n'
            f'secrets = ["{secret}"]\n'
        )
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
