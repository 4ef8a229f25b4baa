"""Ports of the gateway: the serving fleet, telemetry, identifiers and time."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from typing import Protocol

from contracts.facts import Inference, InferenceBatch, MirroredPair
from contracts.vocabulary import Environment, Target
from services.gateway.domain.excerpts import Described, Excerpts
from shared.serving.openai_stream import ApiPiece, ApiRequest

NewId = Callable[[], str]
"""Returns a unique identifier: lower-case hexadecimal."""
Pause = Callable[[float], Awaitable[None]]
"""Returns after so many seconds (`asyncio.sleep`)."""


class Engine(Protocol):
    """The serving fleet."""

    def send(self, endpoint: str, target: Target, request: ApiRequest) -> AsyncGenerator[ApiPiece, None]:
        """Stream the answer to a request; closing the stream aborts it. Raises the errors of `stream_api`."""

    async def await_reconnect(self, endpoint: str) -> None:
        """Return when the endpoint is connected again, or after a short time limit."""

    async def is_live(self, endpoint: str, limit_s: float) -> bool | None:
        """Return whether the server of an endpoint is there, whatever its engines do; None if it is silent."""

    async def keep_only(self, endpoints: Collection[str]) -> None:
        """Close the connections to all other endpoints, but those that answer a request now."""


class TelemetrySink(Protocol):
    """Publishes batches of telemetry."""

    async def publish(self, batch: InferenceBatch, *, model: str, environment: Environment, batch_id: str) -> None:
        """Publish a batch; a batch that is published again with the same id is stored once. Raises Transient."""


class Telemetry(Protocol):
    """Takes telemetry records; never blocks a request."""

    @property
    def problem(self) -> str | None:
        """Return why nothing can be published now; None if it works."""

    def record(self, record: Inference | MirroredPair, /) -> None:
        """Add a record, or a pair; return at once."""


class TextFeatures(Protocol):
    """Takes telemetry records with their texts; never blocks a request."""

    def submit(self, record: Inference | MirroredPair, /, *texts: Excerpts, draw_id: str) -> None:
        """Publish the record of a complete answer, with the features of its texts if it is sampled; return at once.

        A pair of complete answers has the texts of both.
        """


class Describer(Protocol):
    """Computes features of texts, outside the event loop."""

    async def describe(self, texts: Sequence[Excerpts], /) -> list[Described | None]:
        """Return the features of each text, in order; None where they could not be computed within the limits."""
