"""Sends notifications by HTTP: no redirect is followed, and no answer is read but its status."""

import asyncio
import json

import httpx

from services.notifier.domain import payloads
from services.notifier.domain.notices import Notice, Receiver
from services.notifier.ports import SendFailedError
from services.notifier.settings import NotifierSettings
from shared.runtime.clock import Clock

_ALERTS = "/api/v2/alerts"


class HttpSender:
    """Sends notices in the format of the receiver's kind (implements `ports.Sender`)."""

    def __init__(self, settings: NotifierSettings, clock: Clock) -> None:
        self._settings, self._clock = settings, clock
        self._client = httpx.AsyncClient(timeout=settings.timeout_s)

    async def send(self, receiver: Receiver, notice: Notice, transition: str) -> None:
        """Send a notification; raise SendFailedError unless the answer is 2xx and comes in time."""
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                await self._post(receiver, notice, transition)
        except TimeoutError as error:
            raise SendFailedError(f"no answer within {self._settings.timeout_s:g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            raise SendFailedError(f"{type(error).__name__}") from error  # more may show the address

    async def _post(self, receiver: Receiver, notice: Notice, transition: str) -> None:
        now, url = self._clock.now(), receiver.url
        data = payloads.body_of(receiver.kind, notice, transition, now=now, console_url=self._settings.console_url)
        body = json.dumps(data, ensure_ascii=False).encode()
        headers = {"content-type": "application/json", "user-agent": "slipway-notifier"}
        if receiver.secrets:
            message_id = f"msg_{payloads.id_of(notice, transition, receiver.name)}"
            headers |= payloads.signed_headers(receiver.secrets, message_id, int(now.timestamp()), body)
        if receiver.kind == "alertmanager":
            url = url.rstrip("/").removesuffix(_ALERTS) + _ALERTS
        async with self._client.stream("POST", url, content=body, headers=headers) as answer:
            if not answer.is_success:
                raise SendFailedError(f"answered {answer.status_code}")
