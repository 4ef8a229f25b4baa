"""Channels to the serving fleet, one per endpoint."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from decisions.serving.attached import is_attached
from shared.serving.engine_streams import close_streams, count_streams
from shared.serving.http_channel import HttpChannel

CHANNEL_OPTIONS: Final = (
    ("grpc.max_send_message_length", 2**31 - 1),
    ("grpc.max_receive_message_length", 2**31 - 1),
    # gRPC backs off for seconds by default; with these values a restarted Triton is usable after 0.3 s.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)


class Channels:
    """One channel per endpoint, shared by all requests: HTTP to `http://…` addresses, else gRPC to a Triton."""

    def __init__(self, keys: Path | None = None) -> None:
        """Use the file with the keys of attached servers (`SLIPWAY_SERVER_KEYS`)."""
        self._keys = keys
        self._open: dict[str, Any] = {}

    def get(self, endpoint: str) -> Any:
        """Return the channel of an endpoint, `host:port` or `http://…`; it connects in the background."""
        if endpoint not in self._open and is_attached(endpoint):
            self._open[endpoint] = HttpChannel(endpoint, self._keys)
        elif endpoint not in self._open:
            import grpc.aio

            self._open[endpoint] = grpc.aio.insecure_channel(endpoint, options=CHANNEL_OPTIONS)
        return self._open[endpoint]

    def in_use(self) -> list[str]:
        """Return the endpoints with running streams."""
        return [endpoint for endpoint, channel in self._open.items() if _is_used(channel)]

    async def keep_only(self, endpoints: Iterable[str]) -> None:
        """Close the channels of all other endpoints, which have no running streams."""
        for endpoint in set(self._open) - set(endpoints):
            channel = self._open.pop(endpoint)
            await close_streams(channel)
            await channel.close()

    async def close(self) -> None:
        """Close every channel."""
        await self.keep_only(())


def _is_used(channel: Any) -> bool:
    return channel.under_way > 0 if isinstance(channel, HttpChannel) else count_streams(channel) > 0
