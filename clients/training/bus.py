"""The message bus, as one publisher: asks the registry about uploads, and announces checkpoints."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import nats.errors
from nats.aio.client import Client
from nats.js.errors import NoStreamResponseError
from pydantic import ValidationError

from clients.training.connection import Connection
from clients.training.errors import PublishError
from contracts.envelope import CONTENT_TYPE, Event, nats_subject, plain
from contracts.identities import describe_refusal
from contracts.uploads import UPLOADS, UploadAnswer, UploadRequest
from contracts.vocabulary import canonical_json

T = TypeVar("T")
ACK_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 30.0
PATIENCE_S = 120.0
"""How long a registry or a bus that does not answer is asked again: it may be started again meanwhile."""
RECONNECT_WAIT_S = 0.5


class Publisher:
    """A connection to the bus with a publisher's credential."""

    def __init__(self, client: Client, name: str, refused: "asyncio.Future[None]") -> None:
        self._client = client
        self._refused = refused
        self.name = name

    async def ask(self, model: str, request: UploadRequest) -> UploadAnswer:
        """Return what the registry answers to a request for an upload.

        Raises:
            PublishError: It refuses, or gives no answer for `PATIENCE_S`.
        """
        subject = nats_subject(UPLOADS, model, self.name)
        body = request.model_dump_json().encode()
        if len(body) > self._client.max_payload:
            raise PublishError(
                f"The list of the files has {len(body)} bytes; the message bus takes {self._client.max_payload}: "
                "publish fewer or smaller files."
            )
        reason, until = "", time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            try:
                message = await self._unless_refused(self._client.request(subject, body, timeout=ANSWER_TIMEOUT_S))
                answer = UploadAnswer.model_validate_json(message.data)
            except (asyncio.TimeoutError, nats.errors.Error) as error:
                reason = f"{type(error).__name__}"
            except ValidationError as error:
                raise PublishError(
                    f"The registry's answer cannot be read: the client is of another version ({error})."
                ) from error
            else:
                if answer.state == "refused":
                    raise PublishError(f"The registry refused the upload ({answer.code}): {answer.reason}")
                if answer.state != "later":
                    return answer
                reason = answer.reason
            await asyncio.sleep(1.0)
        raise PublishError(
            f"The registry gave no answer for {PATIENCE_S:.0f} s ({reason}): publish again when it runs."
        )

    async def publish(self, event: Event[Any]) -> bool:
        """Publish until the stream acknowledges the event; return whether it had stored the event before."""
        return await self._unless_refused(self._publish_with_retries(event))

    async def _publish_with_retries(self, event: Event[Any]) -> bool:
        headers = {"Nats-Msg-Id": event.id, "content-type": CONTENT_TYPE}
        if event.traceparent:
            headers["traceparent"] = event.traceparent
        body, js = canonical_json(plain(event)), self._client.jetstream(timeout=ACK_TIMEOUT_S)
        until, wait_s = time.monotonic() + PATIENCE_S, 0.2
        while True:
            try:
                ack = await js.publish(event.nats_subject, body, headers=headers)
            except (asyncio.TimeoutError, NoStreamResponseError, nats.errors.Error) as error:
                if time.monotonic() >= until:
                    reason = f"The message bus did not acknowledge the event ({error!r}): publish again, which is safe."
                    raise PublishError(reason) from error
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, 3.0)
            else:
                return bool(ack.duplicate)

    async def _unless_refused(self, work: Awaitable[T]) -> T:
        """Return what work returns; raise what the bus refused meanwhile, which it tells beside the work."""
        working = asyncio.ensure_future(work)
        try:
            await asyncio.wait((working, self._refused), return_when=asyncio.FIRST_COMPLETED)
            if self._refused.done() and not working.done():
                self._refused.result()
            return await working
        finally:
            working.cancel()


def publisher_options(connection: Connection) -> dict[str, Any]:
    """Return the options of `nats.connect` for a publisher, with its name.

    Raises:
        PublishError: The credential is missing, cannot be read, or names no publisher.
    """
    options = connection.bus_options()
    if not options.get("name"):
        raise PublishError(
            "The checkpoint cannot be announced without a credential that names its publisher: set nats_credentials, "
            "or SLIPWAY_NATS_CREDENTIALS, to the file of `slipway keys add NAME --role publisher`."
        )
    return options


@contextlib.asynccontextmanager
async def connected(connection: Connection) -> AsyncIterator[Publisher]:
    """Connect to the bus; the connection is closed at the end.

    Raises:
        PublishError: The credentials name no publisher, or the bus does not answer.
    """
    options = publisher_options(connection)
    name = options["name"]
    refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    options |= {
        "connect_timeout": 5,
        "reconnect_time_wait": RECONNECT_WAIT_S,
        "error_cb": _note_refusal(str(name), refused),
    }
    servers, client = connection.nats_url.split(","), Client()
    try:
        # The first attempt fails fast. Afterwards the bus may be away for long, as between the parts of a large file:
        # who asks it meanwhile waits for `PATIENCE_S`.
        await _try_once(servers, options)
        try:
            await asyncio.wait_for(client.connect(servers, max_reconnect_attempts=-1, **options), PATIENCE_S)
        except BaseException:
            await client.close()
            raise
    except (OSError, asyncio.TimeoutError, nats.errors.Error) as error:
        raise PublishError(f"The message bus at {connection.nats_url} does not answer: publish again later.") from error
    try:
        yield Publisher(client, str(name), refused)
    finally:
        refused.cancel()
        with contextlib.suppress(nats.errors.Error):
            await client.close()


async def _try_once(servers: list[str], options: dict[str, Any]) -> None:
    """Return if one of the servers answers, each being tried once; raise why the last one does not.

    The client by itself gives up at the first server that accepts a connection and then is silent.
    """
    for server in servers:
        client = Client()
        try:
            await client.connect(server, allow_reconnect=False, max_reconnect_attempts=1, **options)
        except (OSError, asyncio.TimeoutError, nats.errors.Error):
            if server == servers[-1]:
                raise
        else:
            return
        finally:
            await client.close()


def _note_refusal(name: str, refused: "asyncio.Future[None]") -> Callable[[Exception], Awaitable[None]]:
    async def note(error: Exception) -> None:
        sentence = describe_refusal(str(error), name)
        if sentence is not None and not refused.done():
            refused.set_exception(PublishError(f"The checkpoint was not announced: {sentence}."))

    return note
