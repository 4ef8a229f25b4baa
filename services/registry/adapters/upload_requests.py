"""Answers upload requests on the bus: one subject per model and publisher, no stream, one replica per request."""

import asyncio

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from pydantic import ValidationError

from contracts.storage.uploads import UPLOADS, UploadAnswer, UploadRequest
from services.registry.domain.uploads import parse_subject
from services.registry.uploads import Intake
from shared.errors import problems_of

MOST_AT_ONCE = 32
"""Maximum requests answered at once; further requests get the state `later`."""


class UploadRequests:
    """Receives upload requests from the bus and answers them."""

    def __init__(self, client: Client, intake: Intake) -> None:
        self._client = client
        self._intake = intake
        self._running: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Answer requests until cancelled."""
        subscription = await self._client.subscribe(f"{UPLOADS}.*.*", queue="registry", cb=self._take)
        try:
            await asyncio.Event().wait()
        finally:
            for task in self._running:
                task.cancel()
            if self._client.is_connected:
                await subscription.unsubscribe()

    async def _take(self, message: Msg) -> None:
        parsed = parse_subject(message.subject, message.reply)
        if parsed is None:
            return
        if len(self._running) >= MOST_AT_ONCE:
            await self._reply(message, UploadAnswer(state="later", reason="The registry answers others first."))
            return
        task = asyncio.create_task(self._respond(message, *parsed))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _respond(self, message: Msg, model: str, publisher: str) -> None:
        try:
            request = UploadRequest.model_validate_json(message.data)
        except ValidationError as error:
            reason = f"The request for an upload is not valid: {'; '.join(problems_of(error))[:500]}."
            await self._reply(message, UploadAnswer(state="refused", code="malformed_event", reason=reason))
            return
        try:
            answer = await self._intake.answer(model, publisher, request)
        except Exception as error:  # noqa: BLE001 - one request must not end the others
            structlog.get_logger().exception("a request for an upload failed", model=model, publisher=publisher)
            answer = UploadAnswer(state="later", reason=f"The registry failed ({type(error).__name__}).")
        await self._reply(message, answer)

    async def _reply(self, message: Msg, answer: UploadAnswer) -> None:
        try:
            await self._client.publish(message.reply, answer.model_dump_json(exclude_defaults=True).encode())
        except NatsError as error:
            structlog.get_logger().warning("an upload could not be answered", error=repr(error))
