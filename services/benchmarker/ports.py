"""What the benchmarker needs from outside."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Protocol

from contracts.facts import Measurement
from contracts.manifests import BenchmarkReport, HeldOutWindow
from contracts.routes import ServedTarget
from contracts.vocabulary import ArtifactRef
from services.benchmarker.domain.prompts import Message
from shared.serving.inference import Delta

Progress = Callable[[int, int], Awaitable[None]]
"""Called with requests done and requests in all."""


class Engine(Protocol):
    """Streams the answers of served targets."""

    def stream(
        self,
        served: ServedTarget,
        prompt: str,
        *,
        output_tokens: int,
        timeout_s: float,
        number: int,
        logprobs: bool = False,
    ) -> AsyncGenerator[Delta, None]:
        """Stream one answer of exactly `output_tokens` tokens where the engine can; `number` spreads the endpoints.

        With `logprobs` the pieces carry the log-probabilities of their tokens, where the engine gives them.

        Raises:
            SlipwayError: The engine is gone or refuses; its code says which.
        """

    async def can_score(self, served: ServedTarget, *, timeout_s: float) -> bool:
        """Return whether the engine of a target gives the log-probabilities of a prompt.

        Raises:
            SlipwayError: The engine is gone; its code says how.
        """

    async def score(self, served: ServedTarget, token_ids: Sequence[int], *, timeout_s: float) -> tuple[float, ...]:
        """Return the log-probability, in nats, of every token but the first, given those before it.

        Args:
            served: A target that can score.
            token_ids: At least two, and one less than its context holds.
            timeout_s: How long the engine may take.

        Raises:
            SlipwayError: The engine is gone or refuses; its code says which.
        """

    async def retire(self, served: Sequence[ServedTarget]) -> None:
        """Let go of connections to targets that are no longer measured."""


class Reports(Protocol):
    """The committed reports."""

    def find(self, output_key: str) -> tuple[BenchmarkReport, ArtifactRef] | None:
        """Return the report of a measurement that was made before, None when there is none."""

    def commit(self, report: BenchmarkReport) -> tuple[BenchmarkReport, ArtifactRef]:
        """Commit a report, create-only; gives the one that stands, which may be somebody else's."""

    def held_out(self, manifest: ArtifactRef) -> tuple[HeldOutWindow, ...]:
        """Return the windows that a variant's quality was measured on; none where its manifest holds none.

        Raises:
            Permanent: artifact_not_found, digest_mismatch, uri_not_allowed.
        """

    def measurement(self, manifest: ArtifactRef) -> Measurement | None:
        """Return how a variant's quality was measured; None where its manifest does not say.

        Raises:
            Permanent: artifact_not_found, digest_mismatch, uri_not_allowed.
        """

    def evaluation(self, ref: ArtifactRef) -> bytes:
        """Read an evaluation set, verified.

        Raises:
            Permanent: artifact_not_found, digest_mismatch, uri_not_allowed.
        """


class Template(Protocol):
    """Renders a conversation as a target expects it."""

    async def __call__(self, served: ServedTarget, messages: Sequence[Message]) -> str:
        """Return the prompt; raise Permanent when the target's chat template cannot render it."""
