"""Patched parts of nats-py's client, which has no parameter for them.

- It waits for the end of a connection after each failed attempt. If the server closes it during the TLS handshake (it
  restarts, or a proxy has no server), asyncio never reports that end, and the client would never try again.
- A pong that comes after its limit, or headers that are no UTF-8, end its reading loop with an error that it logs
  only. It would look connected, and receive nothing, until some pings have failed: for minutes.
"""

import asyncio
from typing import Final

import nats.aio.client
from nats.aio.client import Client
from nats.aio.transport import TcpTransport
from nats.errors import StaleConnectionError

LIMIT_S: Final = 1.0
_read_loop: Final = Client._read_loop  # noqa: SLF001 - see above
_process_pong: Final = Client._process_pong  # noqa: SLF001


class BoundedTransport(TcpTransport):
    """A TCP or TLS connection whose `wait_closed` returns within `LIMIT_S`."""

    async def wait_closed(self) -> None:
        """Wait until the connection is closed, at most so long."""
        try:
            await asyncio.wait_for(super().wait_closed(), LIMIT_S)  # type: ignore[no-untyped-call]  # of nats-py
        except TimeoutError:
            return
        except asyncio.CancelledError:  # of the end itself, by the limit of an earlier call, or of the caller
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise


async def read_loop(client: Client) -> None:
    """Read until the connection ends; connect again when an error ended the reading alone."""
    await _read_loop(client)
    task = asyncio.current_task()
    if client.is_connected and task is not None and not task.cancelling():
        await client._process_op_err(StaleConnectionError())  # noqa: SLF001


async def process_pong(client: Client) -> None:
    """Process a pong, also one whose ping has timed out."""
    pongs = client._pongs  # noqa: SLF001
    if pongs and pongs[0].done():
        pongs[0] = asyncio.get_running_loop().create_future()
    await _process_pong(client)


def install() -> None:
    """Use them for every client of this process."""
    nats.aio.client.TcpTransport = BoundedTransport  # type: ignore[attr-defined]
    Client._read_loop = read_loop  # type: ignore[assignment,method-assign]  # noqa: SLF001
    Client._process_pong = process_pong  # type: ignore[assignment,method-assign]  # noqa: SLF001
