"""What a channel to a server of the OpenAI API does; a gRPC channel, to a Triton, has none of these methods."""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any

from shared.serving.openai_stream import ApiPiece, ApiRequest
from shared.serving.tensors import Delta

if TYPE_CHECKING:
    from shared.serving.inference import Deadlines


class ApiServer(ABC):
    """A server that is asked over HTTP. `stream_api` and `generate` take one in place of a gRPC channel."""

    under_way: int = 0
    """Requests whose answers have not ended."""

    @abstractmethod
    def stream_api(self, name: str, request: ApiRequest, limits: "Deadlines") -> AsyncGenerator[ApiPiece, None]:
        """Stream the answer to a request, with records of what the server tells of it."""

    @abstractmethod
    def generate(
        self, name: str, prompt: str, sampling: Mapping[str, Any], limits: "Deadlines", cache_salt: str | None
    ) -> AsyncGenerator[Delta, None]:
        """Stream the continuation of a prompt."""

    @abstractmethod
    async def score_next(self, name: str, prompt: str, limit_s: float) -> list[float]:
        """Return the log-probabilities of the likeliest tokens after a prompt; nothing if the server reports none."""

    @abstractmethod
    async def close(self) -> None:
        """Close every connection."""
