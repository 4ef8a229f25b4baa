"""Ports of the benchmarker: the serving engine, the store of reports, and chat templates."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Protocol

from contracts.manifests import BenchmarkReport, HeldOutWindow
from contracts.routes import ServedTarget
from contracts.vocabulary import ArtifactRef
from services.benchmarker.domain.prompts import Message
from services.benchmarker.domain.tool_calls import ApiAnswer
from shared.serving.tensors import Delta

Progress = Callable[[int, int], None]
"""Called with requests done and requests in total."""


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
        cache_salt: str | None = None,
    ) -> AsyncGenerator[Delta, None]:
        """Stream one answer of exactly `output_tokens` tokens if the engine supports it.

        `number` chooses the endpoint. With `logprobs` the pieces carry the log-probabilities of their tokens, if the
        engine returns them. Only requests with the same `cache_salt` share cached prefixes, if the engine takes one.

        Raises:
            SlipwayError: The engine is lost or rejects the request; the code says which.
        """

    async def can_score(self, served: ServedTarget, *, timeout_s: float) -> bool:
        """Return whether the engine of a target returns the log-probabilities of a prompt.

        Raises:
            SlipwayError: The engine is lost; the code says how.
        """

    async def score(self, served: ServedTarget, token_ids: Sequence[int], *, timeout_s: float) -> tuple[float, ...]:
        """Return the log-probability, in nats, of every token but the first, given those before it.

        Args:
            served: A target that can score.
            token_ids: At least two, and at most one less than its context holds.
            timeout_s: Time limit of the engine.

        Raises:
            SlipwayError: The engine is lost or rejects the request; the code says which.
        """

    async def ask_api(self, served: ServedTarget, path: str, body: Mapping[str, Any], *, timeout_s: float) -> ApiAnswer:
        """Return the whole answer of the engine's OpenAI API to a POST request.

        Raises:
            SlipwayError: The engine is lost or does not answer; the code says which.
        """

    async def retire(self, served: Sequence[ServedTarget]) -> None:
        """Close connections to all other targets."""


class Reports(Protocol):
    """The committed reports."""

    def find(self, output_key: str) -> tuple[BenchmarkReport, ArtifactRef] | None:
        """Return the committed report of an output key; None if there is none."""

    def commit(self, report: BenchmarkReport) -> tuple[BenchmarkReport, ArtifactRef]:
        """Write a report, create-only, and return the committed one: another replica may have been first."""

    def held_out(self, manifest: ArtifactRef) -> tuple[HeldOutWindow, ...]:
        """Return the windows that a variant's quality was measured on; empty if its manifest has none.

        Raises:
            Permanent: `artifact_not_found`, `digest_mismatch` or `uri_not_allowed`.
        """

    def evaluation(self, ref: ArtifactRef) -> bytes:
        """Return an evaluation set, verified.

        Raises:
            Permanent: `artifact_not_found`, `digest_mismatch` or `uri_not_allowed`.
        """


class Template(Protocol):
    """Renders a conversation as a target expects it."""

    async def __call__(self, served: ServedTarget, messages: Sequence[Message]) -> str:
        """Return the prompt; raise Permanent if the target's chat template cannot render it."""
