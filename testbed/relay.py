"""Stands between clients and a TCP server: cuts them off from each other, holds back all bytes, flaps."""

import contextlib
import socket
import threading
from collections.abc import Iterator


class Relay:
    """Listens on a free loopback port and passes bytes both ways.

    While it is cut, connections are closed at once; while it holds, they stay open, and no byte passes.
    """

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._pumps: list[threading.Thread] = []
        self._cut = False
        self._lock = threading.Lock()
        self._passing = threading.Event()
        self._passing.set()

    def cut(self) -> None:
        """Close every connection, and every new one, until `reconnect`."""
        with self._lock:
            self._cut = True
            for connection in self._open:
                _end(connection)

    def reconnect(self) -> None:
        """Let connections through again."""
        self._cut = False

    def hold(self) -> None:
        """Hold back every byte, until `release`."""
        self._passing.clear()

    def release(self) -> None:
        """Pass on what was held back, and all that follows."""
        self._passing.set()

    def serve(self) -> None:
        """Accept until the listener is closed."""
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._connect(client)

    def _connect(self, client: socket.socket) -> None:
        with self._lock:
            if self._cut:
                client.close()
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._upstream), timeout=5)
            except OSError:
                client.close()
                return
            server.settimeout(None)
            self._open |= {client, server}
        for end in (client, server):  # what is passed on must not wait for the acknowledgement of what came before
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ways = ((client, server), (server, client))
        pair = [threading.Thread(target=_pass, args=(*ends, self._passing), daemon=True) for ends in ways]
        for pump in pair:
            pump.start()
        self._pumps += pair

    def close(self) -> None:
        """End everything."""
        self.cut()
        self.release()
        _end(self._listener)
        self._listener.close()
        for pump in self._pumps:
            pump.join(5)
        for connection in self._open:
            connection.close()


def _pass(source: socket.socket, sink: socket.socket, passing: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            passing.wait()
            sink.sendall(data)
    _end(source)
    _end(sink)


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def relaying(upstream: int) -> Iterator[Relay]:
    """Run a relay in front of the server on a port."""
    relay = Relay(upstream)
    thread = threading.Thread(target=relay.serve, daemon=True)
    thread.start()
    try:
        yield relay
    finally:
        relay.close()
        thread.join(5)
