"""What the benchmarker needs from outside."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Protocol

from contracts.manifests import BenchmarkReport
from contracts.routes import ServedTarget
from contracts.vocabulary import ArtifactRef
from services.benchmarker.domain.prompts import Message
from shared.inference import Delta

Progress = Callable[[int, int], Awaitable[None]]
"""Called with requests done and requests in all."""


class Engine(Protocol):
    """Streams the answers of served targets."""

    def stream(
        self, served: ServedTarget, prompt: str, *, output_tokens: int, timeout_s: float, number: int
    ) -> AsyncGenerator[Delta, None]:
        """Stream one answer of exactly `output_tokens` tokens where the engine can; `number` spreads the endpoints.

        Raises:
            SlipwayError: The engine is gone or refuses; its code says which.
        """

    async def retire(self, served: Sequence[ServedTarget]) -> None:
        """Let go of connections to targets that are no longer measured."""


class Reports(Protocol):
    """The committed reports."""

    def find(self, output_key: str) -> tuple[BenchmarkReport, ArtifactRef] | None:
        """Give the report of a measurement that was made before, None when there is none."""

    def commit(self, report: BenchmarkReport) -> tuple[BenchmarkReport, ArtifactRef]:
        """Commit a report, create-only; gives the one that stands, which may be somebody else's."""

    def evaluation(self, ref: ArtifactRef) -> bytes:
        """Read an evaluation set, verified.

        Raises:
            Permanent: artifact_not_found, digest_mismatch, uri_not_allowed.
        """


class Template(Protocol):
    """Renders a conversation as a target expects it."""

    async def __call__(self, served: ServedTarget, messages: Sequence[Message]) -> str:
        """Give the prompt; raise Permanent when the target's chat template cannot render it."""
