"""Sends notifications by HTTP: no redirect is followed, and no more than the beginning of an answer is read."""

import asyncio
import json
import ssl
from collections.abc import Iterable

import httpx

from services.notifier.domain import webhooks
from services.notifier.domain.notices import Due
from services.notifier.domain.payloads import body_of, message_id
from services.notifier.ports import SendFailedError
from services.notifier.settings import Destination, NotifierSettings
from shared.runtime.clock import Clock

ANSWER_BYTES = 1000
_ALERTS = "/api/v2/alerts"


class HttpSender:
    """Sends each receiver what its kind takes (implements `ports.Sender`)."""

    def __init__(self, destinations: Iterable[Destination], settings: NotifierSettings, clock: Clock) -> None:
        self._destinations = {destination.receiver.name: destination for destination in destinations}
        self._settings, self._clock = settings, clock
        self._clients: dict[str, httpx.AsyncClient] = {}

    async def send(self, due: Due) -> None:
        """Send a notification; raise SendFailedError unless the answer is 2xx and comes in time."""
        destination = self._destinations[due.receiver]
        kind = destination.receiver.kind
        if kind == "alertmanager" and due.transition == "acknowledged":
            return  # it has no such state; what is sent again says who acknowledged it
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                await self._post(destination, due)
        except TimeoutError as error:
            raise SendFailedError(f"no answer within {self._settings.timeout_s:g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            raise SendFailedError(f"{type(error).__name__}") from error  # more may show the address

    async def _post(self, destination: Destination, due: Due) -> None:
        kind, now = destination.receiver.kind, self._clock.now()
        url, secrets = destination.address().get_secret_value(), destination.secrets()
        key = secrets[0].get_secret_value() if secrets else ""
        data = body_of(kind, due, now=now, resend_s=self._settings.resend_s, link=self._settings.alert_link, secret=key)
        body = json.dumps(data, ensure_ascii=False).encode()
        headers = {"content-type": "application/json", "user-agent": "slipway-notifier"}
        if kind == "webhook":
            keys = [webhooks.parse_secret(secret.get_secret_value()) for secret in secrets]
            headers |= webhooks.headers(keys, message_id(due), int(now.timestamp()), body)
        if kind == "alertmanager":
            url = url.rstrip("/").removesuffix(_ALERTS) + _ALERTS
        async with self._client(destination).stream("POST", url, content=body, headers=headers) as answer:
            if answer.is_success:
                return
            raise SendFailedError(f"answered {answer.status_code}: {await _beginning(answer)}")

    def _client(self, destination: Destination) -> httpx.AsyncClient:
        name = destination.receiver.name
        if name not in self._clients:
            verify = ssl.create_default_context(cafile=str(destination.ca_file)) if destination.ca_file else True
            self._clients[name] = httpx.AsyncClient(
                timeout=self._settings.timeout_s,
                follow_redirects=False,
                verify=verify,
                proxy=destination.proxy,
                trust_env=False,
                limits=httpx.Limits(max_connections=8, max_keepalive_connections=2),
            )
        return self._clients[name]

    async def close(self) -> None:
        """Close the connections."""
        await asyncio.gather(*(client.aclose() for client in self._clients.values()))


async def _beginning(answer: httpx.Response) -> str:
    """Return the beginning of an answer, in printable characters: it is shown to operators."""
    received = b""
    async for part in answer.aiter_raw(ANSWER_BYTES):
        received += part
        if len(received) >= ANSWER_BYTES:
            break
    text = received[:ANSWER_BYTES].decode(errors="replace")
    return "".join(letter if letter.isprintable() else " " for letter in text)[:200]
