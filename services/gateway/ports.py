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
"""Sleeps for a number of seconds (`asyncio.sleep`)."""


class Engine(Protocol):
    """The serving fleet."""

    def send(self, endpoint: str, target: Target, request: ApiRequest) -> AsyncGenerator[ApiPiece, None]:
        """Stream the answer to a request; closing the stream aborts the request. Raises as `stream_api`."""

    async def await_reconnect(self, endpoint: str) -> None:
        """Return when the endpoint is connected again, or after a short time limit."""

    async def is_live(self, endpoint: str, limit_s: float) -> bool | None:
        """Return whether an endpoint's server answers, regardless of its engines; None after `limit_s` of silence."""

    async def keep_only(self, endpoints: Collection[str]) -> None:
        """Close the idle connections to all other endpoints."""


class TelemetrySink(Protocol):
    """Publishes batches of telemetry."""

    async def publish(self, batch: InferenceBatch, *, model: str, environment: Environment, batch_id: str) -> None:
        """Publish a batch, at most once per `batch_id`. Raises Transient."""


class Telemetry(Protocol):
    """Takes telemetry records; never blocks a request."""

    @property
    def problem(self) -> str | None:
        """Return why publishing fails now; None if it works."""

    def record(self, record: Inference | MirroredPair, /) -> None:
        """Add a record, or a pair; return at once."""


class TextFeatures(Protocol):
    """Takes telemetry records with their texts; never blocks a request."""

    def submit(self, record: Inference | MirroredPair, /, *texts: Excerpts, draw_id: str) -> None:
        """Queue a complete answer's record for publication, with text features if sampled; return at once.

        For a pair, pass the texts of both answers.
        """


class Describer(Protocol):
    """Computes features of texts, outside the event loop."""

    async def describe(self, texts: Sequence[Excerpts], /) -> list[Described | None]:
        """Return the features of each text, in order; None where computing exceeded a limit or failed."""
