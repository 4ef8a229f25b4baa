"""Sends notifications by HTTP: no redirect is followed, and no answer is read but its status."""

import asyncio
import json
from collections.abc import Iterable

import httpx

from services.notifier.domain import payloads
from services.notifier.domain.notices import Notice, Receiver, Transition
from services.notifier.ports import SendFailedError
from services.notifier.settings import NotifierSettings
from shared.runtime.clock import Clock


class HttpSender:
    """Sends notices in the format of the receiver's kind (implements `ports.Sender`)."""

    def __init__(self, receivers: Iterable[Receiver], settings: NotifierSettings, clock: Clock) -> None:
        self._receivers = {receiver.name: receiver for receiver in receivers}
        self._settings, self._clock = settings, clock
        self._client = httpx.AsyncClient(timeout=settings.timeout_s)

    async def send(self, receiver: str, notice: Notice, transition: Transition) -> None:
        """Send a notification; raise SendFailedError unless the answer is 2xx and comes in time."""
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                await self._post(self._receivers[receiver], notice, transition)
        except TimeoutError as error:
            raise SendFailedError(f"no answer within {self._settings.timeout_s:g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            raise SendFailedError(f"{type(error).__name__}") from error  # more may show the address

    async def _post(self, receiver: Receiver, notice: Notice, transition: Transition) -> None:
        channel, now, settings = payloads.CHANNELS[receiver.kind], self._clock.now(), self._settings
        data = payloads.body_of(receiver.kind, notice, transition, now=now, console_url=settings.console_url)
        body = json.dumps(data, ensure_ascii=False).encode()
        url, headers = receiver.url, {"content-type": "application/json", "user-agent": "slipway-notifier"}
        if channel.signed:
            sent_id = payloads.message_id(notice, transition, receiver.name)
            keys = [payloads.parse_secret(secret) for secret in receiver.secrets]
            headers |= payloads.signed_headers(keys, sent_id, int(now.timestamp()), body)
        if channel.path:
            url = url.rstrip("/").removesuffix(channel.path) + channel.path
        async with self._client.stream("POST", url, content=body, headers=headers) as answer:
            if not answer.is_success:
                raise SendFailedError(f"answered {answer.status_code}")

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()
