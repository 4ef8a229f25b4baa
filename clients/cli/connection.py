"""Find and connect to the stack: --state, else the environment, else .state."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import nats
import typer
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import StreamInfo

from clients.cli.errors import CommandError, Exit
from clients.cli.settings import CliSettings
from contracts.identities import Credential
from contracts.services import EVENTS
from deploy.local.state import StateFolder, foreign_data
from shared.messaging.credentials import connect, identify
from shared.messaging.refusals import Refusals
from shared.runtime.settings import Connection

T = TypeVar("T")
CONNECT_S = 3.0


@dataclass(frozen=True)
class StackAddress:
    """The addresses and credentials of a stack, and its name in messages."""

    connection: Connection
    gateway_url: str | None
    name: str
    gateway_key: Path | None = None
    gateway_ca: Path | None = None
    console_url: str | None = None
    console_credentials: Path | None = None
    ports: Mapping[str, int] = field(default_factory=dict)
    """Ports of a stack on this machine, by part."""
    tritons: int = 1
    """Tritons of the default runtime of a stack on this machine."""

    @property
    def is_local(self) -> bool:
        """Whether `slipway up` started the stack on this machine."""
        return bool(self.ports)

    def gateway_trust(self) -> ssl.SSLContext | bool:
        """Return the trust for the gateway's certificate: `gateway_ca`, by default the system's authorities.

        Raises:
            CommandError: The file of the authority cannot be read.
        """
        if self.gateway_ca is None:
            return True
        try:
            return ssl.create_default_context(cafile=self.gateway_ca)
        except OSError as error:  # an SSLError is one, too
            message = f"{self.gateway_ca} is no readable certificate of an authority (SLIPWAY_GATEWAY_CA): {error}"
            raise CommandError(message) from error


def find_stack(state: Path | None) -> StackAddress:
    """Return the address of the stack of a command: a state folder, or the environment.

    Raises:
        CommandError: There is no stack.
    """
    settings = CliSettings()
    if state is None and settings.nats_url is not None:
        key, trusted, console = settings.gateway_key, settings.gateway_ca, settings.console_url
        named = (Connection(), settings.gateway_url, settings.nats_url, key, trusted, console)
        return StackAddress(*named, settings.console_credentials)
    return _of_folder(StateFolder(state if state is not None else settings.state))


def _of_folder(folder: StateFolder) -> StackAddress:
    """Return the address of the embedded stack in a state folder."""
    description = folder.read_description()
    if description is None or not description.variables:
        raise CommandError(
            f"there is no stack in {folder.shown}; start one with `slipway up`, name its state folder with --state, "
            "or set SLIPWAY_NATS_URL and SLIPWAY_S3_ENDPOINT",
            Exit.UNREACHABLE,
        )
    refusal = foreign_data(description, folder.path)
    if refusal is not None:
        raise CommandError(refusal)
    values = {name.removeprefix("SLIPWAY_").lower(): value for name, value in description.variables.items()}
    return StackAddress(
        Connection.model_validate({**values, "state_dir": folder.path}),
        values["gateway_url"],
        folder.shown,
        Path(values["gateway_key"]),
        console_url=values["console_url"],
        console_credentials=Path(values["console_credentials"]),
        ports=description.ports,
        tritons=description.tritons,
    )


def sender_of(stack: StackAddress) -> str:
    """Return the identity of the command's credential, the sender of its orders.

    Raises:
        CommandError: The credential cannot be read, or names no identity.
    """
    try:
        name = identify(stack.connection).name
    except ValueError as error:
        raise CommandError(f"{error} `slipway env` prints the credential of a stack on this machine.") from error
    if name is None:
        raise CommandError(
            "the credential names no identity, and an order needs one: set SLIPWAY_NATS_CREDENTIALS to a file that "
            "`slipway keys add` made"
        )
    return name


def credential_in(path: Path) -> Credential:
    """Return the credential in a file.

    Raises:
        CommandError: The file cannot be read, or was not made by `slipway keys`.
    """
    try:
        return Credential.from_text(path.read_text())
    except (OSError, ValueError) as error:
        raise CommandError(f"{path} is no readable credential of `slipway keys`: {error}") from error


class _Watching:
    """Leaves a server that is cut off from its cluster, if the identity may ask for the state of the event log."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None
        self._has_asked = False

    def begin(self, client: Client) -> None:
        """Start to check whether the server is cut off from its cluster, until the connection is closed."""
        if not client._server_info.get("cluster"):  # noqa: SLF001 - nats-py has no public name for it
            return
        from shared.messaging.isolation import EVERY_S, Isolation  # what commands on one server do without

        js = JetStreamContext(client, timeout=EVERY_S)  # what a server does not answer counts

        async def ask() -> StreamInfo:
            self._has_asked = True
            return await js.stream_info(EVENTS)

        report = partial(typer.echo, err=True)  # what a command prints may be JSON
        self._task = asyncio.create_task(Isolation(client, ask, report).watch())

    async def note(self, errors: Refusals, error: Exception) -> None:
        """Handle an error of the client; without permission for the check the connection keeps its server."""
        if f'"$js.api.stream.info.{EVENTS}"'.lower() in str(error).lower() and self._task and self._has_asked:
            self.end()  # further ones are of the command's own request, and end it
            return
        await errors.note(error)

    def end(self) -> None:
        """End the watch."""
        if self._task is not None:
            self._task.cancel()
            self._task = None


class CommandClient(Client):
    """A connection that repeats reads from a cluster while its servers elect a leader."""

    def jetstream(self, **options: Any) -> JetStreamContext:
        """Return JetStream with these options of `Client.jetstream`."""
        if not self._server_info.get("cluster"):
            return super().jetstream(**options)
        from shared.messaging.patience import PatientJetStream  # what commands on one server do without

        return PatientJetStream(self, **options)


def _no_answer(stack: StackAddress, error: Exception) -> CommandError:
    """Return the error of a command that cannot connect to the bus."""
    url = stack.connection.nats_url
    advice = "see `slipway ps`, or start the stack with `slipway up`"
    if stack.name == url and stack.connection.nats_ca is None:  # the address is from the environment
        advice = (
            "it may wait for TLS, which is spoken only with the certificate of its authority: set SLIPWAY_NATS_CA, and "
            "SLIPWAY_NATS_CREDENTIALS (`slipway env` prints both), or correct SLIPWAY_NATS_URL"
        )
    elif stack.name == url:
        advice = "see `slipway doctor`, and correct SLIPWAY_NATS_URL, or unset it for the stack in a state folder"
    sentence = f"the message bus at {url} does not answer ({type(error).__name__}); {advice}"
    return CommandError(sentence, Exit.UNREACHABLE)


@asynccontextmanager
async def connected(stack: StackAddress) -> AsyncIterator[Client]:
    """Connect to the message bus for the duration of the block; reconnect after a restart of the bus.

    Raises:
        CommandError: The bus does not answer, or refuses a request of the block.
    """
    refused: list[str] = []
    running = asyncio.current_task()

    def end_block(sentence: str) -> None:
        refused.append(sentence)
        if running is not None and len(refused) == 1:
            running.cancel()  # what waits for an answer would wait until its time limit, or try for ever

    watching = _Watching()
    try:
        identity = identify(stack.connection)
        errors = Refusals(identity.name or "this user", end_block)
        options: dict[str, Any] = {
            "error_cb": partial(watching.note, errors),
            "connect_timeout": CONNECT_S,
            "reconnect_time_wait": 0.2,
        }
        # The first attempt must fail fast; afterwards the client waits for a restarted bus without a limit.
        first = await connect(stack.connection, "cli", allow_reconnect=False, max_reconnect_attempts=1, **options)
        await first.close()
        client = await connect(stack.connection, "cli", client=CommandClient(), max_reconnect_attempts=-1, **options)
        watching.begin(client)
    except ValueError as error:
        raise CommandError(f"{error} `slipway env` prints the credential of a stack on this machine.") from error
    except (OSError, TimeoutError, nats.errors.Error) as error:
        raise _no_answer(stack, error) from error
    try:
        yield client
    except asyncio.CancelledError:
        if not refused or running is None:
            raise
        running.uncancel()
    finally:
        watching.end()
        await client.close()
    if refused:
        raise CommandError(refused[0])


@asynccontextmanager
async def on_bus(stack: StackAddress) -> AsyncIterator[JetStreamContext]:
    """Connect as `connected`; yield JetStream with a request timeout of 10 s."""
    async with connected(stack) as client:
        yield client.jetstream(timeout=10)


def ask_bus(stack: StackAddress, work: Callable[[JetStreamContext], Coroutine[Any, Any, T]]) -> T:
    """Return the result of work on a new connection to the bus."""

    async def ask() -> T:
        async with on_bus(stack) as js:
            return await work(js)

    return asyncio.run(ask())
