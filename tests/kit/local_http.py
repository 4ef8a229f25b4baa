"""An HTTP server on a free port of this machine, in a thread of its own."""

import abc
import http.server
import threading
from typing import Self


class LocalHttp(abc.ABC):
    """Serves while it is entered; a subclass says how a request is handled."""

    def __enter__(self) -> Self:
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @abc.abstractmethod
    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        """Return the class that handles requests."""
