"""A program's credential on the bus, its options for NATS clients, and patches of nats-py.

The patches work around two defects:
- nats-py waits for a connection to close after each failed attempt. If the server closes it during the TLS handshake,
  asyncio never reports the end, and the client never reconnects.
- A late pong, or headers in another encoding than UTF-8, end its reading loop with a log line only. The client then
  looks connected and receives nothing until several pings have failed, for minutes.
"""

import asyncio
import contextlib
import logging
import ssl
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import nats.aio.client
import nats.errors
from nats.aio.client import Client
from nats.aio.transport import TcpTransport
from nats.errors import StaleConnectionError

from contracts.identities import Credential, inbox_prefix
from shared.runtime.settings import Connection

LIMIT_S: Final = 1.0
_read_loop: Final = Client._read_loop  # noqa: SLF001 - see above
_process_pong: Final = Client._process_pong  # noqa: SLF001


class BoundedTransport(TcpTransport):
    """A TCP or TLS connection with `wait_closed` limited to `LIMIT_S`."""

    async def wait_closed(self) -> None:
        """Wait until the connection is closed, at most `LIMIT_S`."""
        try:
            await asyncio.wait_for(super().wait_closed(), LIMIT_S)  # type: ignore[no-untyped-call]  # of nats-py
        except TimeoutError:
            return
        except asyncio.CancelledError:  # of the end itself, by the limit of an earlier call, or of the caller
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise


async def read_loop(client: Client) -> None:
    """Read until the connection ends; reconnect if only the reading loop failed."""
    await _read_loop(client)
    task = asyncio.current_task()
    if client.is_connected and task is not None and not task.cancelling():
        await client._process_op_err(StaleConnectionError())  # noqa: SLF001


async def process_pong(client: Client) -> None:
    """Process a pong, also after its ping has timed out."""
    pongs = client._pongs  # noqa: SLF001
    if pongs and pongs[0].done():
        pongs[0] = asyncio.get_running_loop().create_future()
    await _process_pong(client)


# For every client of this process.
nats.aio.client.TcpTransport = BoundedTransport  # type: ignore[attr-defined]
Client._read_loop = read_loop  # type: ignore[assignment,method-assign]  # noqa: SLF001
Client._process_pong = process_pong  # type: ignore[assignment,method-assign]  # noqa: SLF001


if TYPE_CHECKING:
    from faststream.nats.security import NatsSecurity


@dataclass(frozen=True)
class BusIdentity:
    """The identity of a program on the bus.

    Attributes:
        name: The identity; None without a credential.
        seed: Its secret (nkeys); None without a credential.
        tls: Trust in the server's certificate; None for a connection without TLS.
    """

    name: str | None = None
    seed: str | None = None
    tls: ssl.SSLContext | None = None

    def options(self, default_name: str) -> dict[str, Any]:
        """Return the options of `nats.connect`; an identity without a name gets the inbox of `default_name`."""
        options: dict[str, Any] = {"inbox_prefix": inbox_prefix(self.name or default_name).encode()}
        if self.seed is not None:
            options["nkeys_seed_str"] = self.seed
        if self.tls is not None:
            options |= {"tls": self.tls, "tls_handshake_first": True}
        return options

    def security(self) -> "NatsSecurity | None":
        """Return the options of FastStream's broker; None for a connection without credentials and TLS."""
        from faststream.nats.security import NatsNKey, NatsSecurity  # not for the command line

        if self.seed is not None:
            return NatsNKey.from_seed(self.seed, ssl_context=self.tls, tls_handshake_first=self.tls is not None)
        return NatsSecurity(ssl_context=self.tls, tls_handshake_first=True) if self.tls is not None else None


async def connect(
    connection: Connection, default_name: str = "slipway", *, client: Client | None = None, **options: Any
) -> Client:
    """Connect to the bus as the identity in the settings.

    With `allow_reconnect=False` each server is tried once: nats-py itself gives up at the first server that accepts a
    connection and then stays silent.

    Args:
        connection: Addresses and credential.
        default_name: Inbox of a connection without a credential.
        client: An unconnected client to use; only for connections that may reconnect.
        options: Options of `nats.connect`.

    Raises:
        ValueError: as `identify`.
        nats.errors.Error: the bus does not answer, or does not accept this key.
    """
    given = {**identify(connection).options(default_name), **options}
    servers = connection.nats_url.split(",")
    if options.get("allow_reconnect", True):
        return await _connect(servers, given, client)
    for server in servers[:-1]:
        with contextlib.suppress(OSError, TimeoutError, nats.errors.Error):  # the last one says why
            return await _connect([server], given)
    return await _connect(servers[-1:], given)


async def _connect(servers: list[str], options: dict[str, Any], client: Client | None = None) -> Client:
    client = client or Client()
    try:
        await client.connect(servers, **options)
    except BaseException:
        with contextlib.suppress(Exception):  # an error of it must not take the place of a cancellation
            await client.close()  # it leaves its socket open
        raise
    return client


def require_identity(connection: Connection, identity: str) -> Connection:
    """Return the settings of a program that connects as one identity.

    Raises:
        SystemExit: There is no credential, or it is another identity's; the message says what to do.
    """
    why = _missing(connection, identity)
    if why is not None:
        sys.exit(f"{identity}: no_credentials: {why}")
    return connection


def read_seed(connection: Connection) -> str:
    """Return the secret of this program's key of the bus (nkeys).

    Raises:
        ValueError: There is none, or it cannot be read.
    """
    seed = identify(connection).seed
    if seed is None:
        raise ValueError("SLIPWAY_NATS_CREDENTIALS names no credential.")
    return seed


def _missing(connection: Connection, identity: str) -> str | None:
    """Return why a program cannot connect as an identity, and what to do; None if its credential matches."""
    advice = (
        f"Name the file credentials/{identity}.nk of the folder that `slipway keys init` makes in "
        "SLIPWAY_NATS_CREDENTIALS, and its ca.pem in SLIPWAY_NATS_CA."
    )
    if connection.nats_credentials is None:
        return f"The bus takes no connection without a credential. {advice}"
    try:
        known = identify(connection)
    except ValueError as error:
        return f"{error} {advice}"
    if known.tls is None:
        return f"The bus takes no connection without TLS. {advice}"
    if known.name != identity:
        return f"{connection.nats_credentials} is the credential of {known.name}. {advice}"
    return None


def identify(connection: Connection) -> BusIdentity:
    """Return the identity of this program, read from the files in its settings.

    Raises:
        ValueError: A file is not readable, or holds no credential; the message names the variable.
    """
    tls = None
    if connection.nats_ca is not None:
        try:
            tls = ssl.create_default_context(cafile=str(connection.nats_ca))
        except (OSError, ssl.SSLError) as error:
            raise ValueError(
                f"SLIPWAY_NATS_CA names {connection.nats_ca}, which is no readable certificate: {error}."
            ) from error
        tls.minimum_version = ssl.TLSVersion.TLSv1_3
        logging.getLogger("asyncio").addFilter(_is_no_eof)
    path = connection.nats_credentials
    if path is None:
        return BusIdentity(tls=tls)
    try:
        credential = Credential.from_text(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"SLIPWAY_NATS_CREDENTIALS names {path}, which is no readable credential: {error}") from error
    return BusIdentity(name=credential.name, seed=credential.seed.get_secret_value(), tls=tls)


def _is_no_eof(record: logging.LogRecord) -> bool:
    """Return False for asyncio's harmless warning at the end of each TLS connection of nats-py."""
    return "eof_received" not in record.getMessage()
