"""The socket of NATS clients: its end is awaited with a limit.

nats-py waits for the end of a connection after each failed attempt. If the server closes it during the TLS handshake
(it restarts, or a proxy has no server), asyncio never reports that end, and the client would never try again.
"""

import asyncio
import contextlib
from typing import Final

import nats.aio.client
from nats.aio.transport import TcpTransport

LIMIT_S: Final = 1.0


class BoundedTransport(TcpTransport):
    """A TCP or TLS connection whose `wait_closed` returns within `LIMIT_S`."""

    async def wait_closed(self) -> None:
        """Wait until the connection is closed, at most so long."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(super().wait_closed(), LIMIT_S)  # type: ignore[no-untyped-call]  # of nats-py


def install() -> None:
    """Use it for every client of this process; nats-py has no parameter for it."""
    nats.aio.client.TcpTransport = BoundedTransport  # type: ignore[attr-defined]
