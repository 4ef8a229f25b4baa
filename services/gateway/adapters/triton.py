"""Adapter of the serving fleet: Triton's gRPC endpoints and servers of the OpenAI API."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Collection
from pathlib import Path

from contracts.vocabulary import Target
from shared.serving.channels import Channels
from shared.serving.engine_streams import stream_api
from shared.serving.http_channel import HttpChannel
from shared.serving.inference import Deadlines
from shared.serving.openai_stream import ApiPiece, ApiRequest


class TritonEngine:
    """Streams answers from the endpoints of a fleet (implements `ports.Engine`)."""

    def __init__(self, deadlines: Deadlines, *, keys: Path | None = None, reconnect_s: float = 1.5) -> None:
        # The import takes a third of a second.
        import tritonclient.grpc  # noqa: F401 - imported before the first request, which it would delay

        self._channels = Channels(keys)
        self._deadlines = deadlines
        self._reconnect_s = reconnect_s

    def send(self, endpoint: str, target: Target, request: ApiRequest) -> AsyncGenerator[ApiPiece, None]:
        """Stream an answer (see `ports.Engine`)."""
        return stream_api(self._channels.get(endpoint), target.triton_name, request, deadlines=self._deadlines)

    async def await_reconnect(self, endpoint: str) -> None:
        """Return when the endpoint is connected again, or after a short time limit."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._reconnect_s):
                await self._channels.get(endpoint).channel_ready()

    async def is_live(self, endpoint: str, limit_s: float) -> bool | None:
        """Return whether Triton's ServerLive or a server of the API answers (see `ports.Engine`)."""
        import grpc
        from tritonclient.grpc import service_pb2, service_pb2_grpc

        channel = self._channels.get(endpoint)
        try:
            async with asyncio.timeout(limit_s):
                if isinstance(channel, HttpChannel):
                    return await channel.is_live()
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                await stub.ServerLive(service_pb2.ServerLiveRequest())
        except TimeoutError:
            return None
        except grpc.RpcError:
            return False
        return True

    async def keep_only(self, endpoints: Collection[str]) -> None:
        """Close the channels of other endpoints without streams (see `ports.Engine`)."""
        await self._channels.keep_only({*endpoints, *self._channels.in_use()})

    async def close(self) -> None:
        """Close every channel."""
        await self._channels.close()
