"""Connections to the message bus: requests for uploads, announcements of checkpoints, reads of records."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

import nats.errors
from nats.aio.client import Client
from nats.js.errors import NoStreamResponseError, NotFoundError
from pydantic import ValidationError

from clients.training.connection import Connection
from clients.training.errors import PublishError, ReadError, SlipwayClientError
from contracts.envelope import CONTENT_TYPE, Event, nats_subject, plain
from contracts.identities import describe_refusal
from contracts.storage.uploads import UPLOADS, UploadAnswer, UploadRequest
from contracts.vocabulary import canonical_json

T = TypeVar("T")
ACK_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 30.0
PATIENCE_S = 120.0
"""Seconds within which a registry or bus without an answer is asked again: it may be restarting."""
RECONNECT_WAIT_S = 0.5
REMOVED = "KV-Operation"
"""Header of messages that remove a record."""


class Publisher:
    """A connection to the bus with a publisher's credential."""

    def __init__(self, client: Client, name: str, refused: asyncio.Future[None]) -> None:
        self._client = client
        self._refused = refused
        self.name = name

    async def ask(self, model: str, request: UploadRequest) -> UploadAnswer:
        """Return the registry's answer to a request for an upload.

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
                message = await _unless_refused(
                    self._client.request(subject, body, timeout=ANSWER_TIMEOUT_S), self._refused
                )
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
        """Publish an event until the stream acknowledges it; return whether the stream had stored it before."""
        return await _unless_refused(self._publish_with_retries(event), self._refused)

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


class Reader:
    """A connection to the bus that reads the last message of a subject."""

    def __init__(self, client: Client, refused: asyncio.Future[None]) -> None:
        self._client = client
        self._refused = refused

    async def last(self, stream: str, subject: str) -> bytes | None:
        """Return the last message of a subject; None if there is none, or the record was removed.

        Raises:
            ReadError: The credential may not read it, or the bus gives no answer for `PATIENCE_S`.
        """
        js, until = self._client.jetstream(timeout=ACK_TIMEOUT_S), time.monotonic() + PATIENCE_S
        while True:
            try:
                message = await _unless_refused(js.get_msg(stream, subject=subject, direct=True), self._refused)
            except NotFoundError:
                return None
            except (asyncio.TimeoutError, nats.errors.Error) as error:
                if time.monotonic() >= until:
                    raise ReadError(f"The message bus gave no answer ({error!r}): try again later.") from error
                await asyncio.sleep(1.0)
            else:
                return None if REMOVED in (message.headers or {}) else message.data


async def _unless_refused(work: Awaitable[T], refused: asyncio.Future[None]) -> T:
    """Return the result of work; raise the error of a refusal by the bus."""
    working = asyncio.ensure_future(work)
    try:
        await asyncio.wait((working, refused), return_when=asyncio.FIRST_COMPLETED)
        if refused.done() and not working.done():
            refused.result()
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
    async with _connected(connection, options, PublishError, "The checkpoint was not announced") as (client, refused):
        yield Publisher(client, str(options["name"]), refused)


@contextlib.asynccontextmanager
async def reading(connection: Connection) -> AsyncIterator[Reader]:
    """Connect to the bus to read; the connection is closed at the end.

    Raises:
        ReadError: The credentials cannot be read, or the bus does not answer.
    """
    try:
        options = connection.bus_options()
    except PublishError as error:
        raise ReadError(str(error)) from error
    async with _connected(connection, options, ReadError, "Nothing was read") as (client, refused):
        yield Reader(client, refused)


@contextlib.asynccontextmanager
async def _connected(
    connection: Connection, options: dict[str, Any], kind: type[SlipwayClientError], nothing: str
) -> AsyncIterator[tuple[Client, asyncio.Future[None]]]:
    """Connect; yield the client, and a future that fails with an error of `kind` after a refusal by the bus."""
    refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def note(error: Exception) -> None:
        sentence = describe_refusal(str(error), str(options.get("name")))
        if sentence is not None and not refused.done():
            refused.set_exception(kind(f"{nothing}: {sentence}."))

    options = {**options, "connect_timeout": 5, "reconnect_time_wait": RECONNECT_WAIT_S, "error_cb": note}
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
        again = "publish" if kind is PublishError else "try"
        raise kind(f"The message bus at {connection.nats_url} does not answer: {again} again later.") from error
    try:
        yield client, refused
    finally:
        refused.cancel()
        with contextlib.suppress(nats.errors.Error):
            await client.close()


async def _try_once(servers: list[str], options: dict[str, Any]) -> None:
    """Try each server once and return after the first answer; else raise the last server's error.

    nats-py gives up at the first server that accepts a connection and is then silent.
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
