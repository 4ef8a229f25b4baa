"""The benchmarker's ports: serving engine, report store and chat templates."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Protocol

from contracts.manifests import BenchmarkReport, HeldOutWindow
from contracts.routes import ServedTarget
from contracts.vocabulary import ArtifactRef
from services.benchmarker.domain.prompts import Message
from services.benchmarker.domain.tool_calls import ApiAnswer
from shared.serving.tensors import Delta

Progress = Callable[[int, int], None]
"""Called with requests done and in total."""


class Engine(Protocol):
    """The serving engine: streams answers and scores prompts."""

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
        """Stream one answer, of exactly `output_tokens` tokens if the engine supports it.

        `number` selects the endpoint. `logprobs` adds log-probabilities of tokens, and only requests with equal
        `cache_salt` share cached prefixes, if the engine supports these.

        Raises:
            SlipwayError: The engine is lost or rejects the request; see its code.
        """

    async def can_score(self, served: ServedTarget, *, timeout_s: float) -> bool:
        """Return whether a target's engine returns log-probabilities of a prompt.

        Raises:
            SlipwayError: The engine is lost; see its code.
        """

    async def score(self, served: ServedTarget, token_ids: Sequence[int], *, timeout_s: float) -> tuple[float, ...]:
        """Return the log-probability in nats of each token after the first, given the preceding ones.

        Args:
            served: A target that can score.
            token_ids: At least two, and fewer than its context holds.
            timeout_s: Timeout in seconds.

        Raises:
            SlipwayError: The engine is lost or rejects the request; see its code.
        """

    async def ask_api(self, served: ServedTarget, path: str, body: Mapping[str, Any], *, timeout_s: float) -> ApiAnswer:
        """Return the complete answer of the engine's OpenAI API to a POST request.

        Raises:
            SlipwayError: The engine is lost or does not answer; see its code.
        """

    async def retire(self, served: Sequence[ServedTarget]) -> None:
        """Close connections to all other targets."""


class Reports(Protocol):
    """Committed reports, and the texts that variants were measured on."""

    def find(self, output_key: str) -> tuple[BenchmarkReport, ArtifactRef] | None:
        """Return the committed report with this output key; None if there is none."""

    def commit(self, report: BenchmarkReport) -> tuple[BenchmarkReport, ArtifactRef]:
        """Write a report, create-only; return the stored one, which may be another replica's."""

    def held_out(self, manifest: ArtifactRef) -> tuple[HeldOutWindow, ...]:
        """Return a variant's held-out windows; empty if its manifest has none.

        Raises:
            Permanent: `artifact_not_found`, `digest_mismatch` or `uri_not_allowed`.
        """

    def evaluation(self, ref: ArtifactRef) -> bytes:
        """Return a verified evaluation set.

        Raises:
            Permanent: `artifact_not_found`, `digest_mismatch` or `uri_not_allowed`.
        """


class Template(Protocol):
    """Renders conversations with a target's chat template."""

    async def __call__(self, served: ServedTarget, messages: Sequence[Message]) -> str:
        """Return the prompt; raise Permanent if the chat template rejects the messages."""
