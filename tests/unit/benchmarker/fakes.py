"""Handwritten stand-ins for the benchmarker's ports; each runs the same conformance suite as the real thing."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from contracts.manifests import BenchmarkReport, HeldOutWindow
from contracts.routes import ServedTarget
from contracts.vocabulary import ArtifactRef, canonical_json, digest_of
from services.benchmarker.domain.tool_calls import ApiAnswer
from shared.errors import Permanent, Transient
from shared.serving.tensors import Delta


@dataclass
class Behaviour:
    """How one target answers.

    `first_s` passes before the first token and `between_s` before each further one; `error` is raised after
    `error_after` tokens; `hang_after` tokens the stream falls silent; `mute` answers only empty text. A token of a prompt
    costs `token_nll` nats, None where the engine cannot score; one of an answer `answer_nll`. `score_error` is raised
    instead of a score, the first time only where it `recovers`. `api_answer` or `api_error` is the answer of its API.
    Requests of the pairs in `lost` end as if the connection was reset.
    With `caches` the first token of a prompt that came before with the same salt takes a tenth of the time.
    A prompt has a token for every `token_bytes` bytes, and is refused if it fills the context; None refuses nothing.
    """

    first_s: float = 0.1
    between_s: float = 0.01
    error: str | None = None
    error_after: int = 0
    hang_after: int | None = None
    mute: bool = False
    tokens: int | None = None
    token_nll: float | None = None
    answer_nll: float | None = 0.5
    score_error: str | None = None
    recovers: bool = False
    api_answer: ApiAnswer = field(default_factory=lambda: ApiAnswer(200, b'{"choices": [{"message": {}}]}'))
    api_error: str | None = None
    token_bytes: int | None = None
    context_tokens: int = 2048
    lost: frozenset[int] = frozenset()
    caches: bool = False
    cached: set[tuple[str, str | None]] = field(default_factory=set)

    def next_first_s(self, prompt: str, salt: str | None) -> float:
        known = self.caches and (prompt, salt) in self.cached
        self.cached.add((prompt, salt))
        return self.first_s / 10 if known else self.first_s

    def count_tokens(self, prompt: str) -> int:
        tokens = 5 if self.token_bytes is None else -(-len(prompt.encode()) // self.token_bytes)
        if tokens >= self.context_tokens:
            raise Permanent("bad_request", f"The prompt has {tokens} tokens; the limit is {self.context_tokens}.")
        return tokens


@dataclass
class FakeEngine:
    """Answers by the behaviour of each target; an unknown target is unreachable, as on a real server."""

    behaviours: dict[str, Behaviour]
    started: list[tuple[str, str, int]] = field(default_factory=list)
    open: int = 0
    most_open: int = 0
    retired: list[list[str]] = field(default_factory=list)
    scored: list[int] = field(default_factory=list)
    timeouts: set[float] = field(default_factory=set)
    asked: list[tuple[str, str]] = field(default_factory=list)
    api_bodies: list[dict[str, object]] = field(default_factory=list)

    async def ask_api(self, served, path, body, *, timeout_s):  # noqa: ARG002
        name = served.target.triton_name
        self.asked.append((name, path))
        self.api_bodies.append(dict(body))
        behaviour = self.behaviours.get(name)
        if behaviour is None:
            raise Transient("endpoint_unreachable", f"{name} is not loaded there")
        if behaviour.api_error is not None:
            raise Transient(behaviour.api_error, "told to fail")
        return behaviour.api_answer

    async def stream(
        self,
        served: ServedTarget,
        prompt: str,
        *,
        output_tokens: int,
        timeout_s: float,  # noqa: ARG002
        number: int,
        logprobs: bool = False,
        cache_salt: str | None = None,
    ) -> AsyncGenerator[Delta, None]:
        name = served.target.triton_name
        self.started.append((name, prompt, number))
        behaviour = self.behaviours.get(name)
        if behaviour is None:
            raise Transient("endpoint_unreachable", f"{name} is not loaded there")
        if number in behaviour.lost:
            raise Transient("endpoint_unreachable", "told to reset the connection")
        input_tokens = behaviour.count_tokens(prompt)
        first_s = behaviour.next_first_s(prompt, cache_salt)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            count = behaviour.tokens or output_tokens
            for index in range(count):
                if behaviour.error is not None and index == behaviour.error_after:
                    raise Transient(behaviour.error, "told to fail")
                if behaviour.hang_after is not None and index == behaviour.hang_after:
                    await asyncio.Event().wait()
                await asyncio.sleep(first_s if index == 0 else behaviour.between_s)
                reason = "length" if index == count - 1 else None
                cost = (-behaviour.answer_nll,) if logprobs and behaviour.answer_nll is not None else ()
                yield Delta("" if behaviour.mute else f"t{index} ", reason, input_tokens, 1, cost)
        finally:
            self.open -= 1

    async def can_score(self, served: ServedTarget, *, timeout_s: float) -> bool:  # noqa: ARG002
        behaviour = self.behaviours.get(served.target.triton_name)
        if behaviour is None:
            raise Transient("endpoint_unreachable", f"{served.target} is not loaded there")
        return behaviour.token_nll is not None

    async def score(self, served: ServedTarget, token_ids: Sequence[int], *, timeout_s: float) -> tuple[float, ...]:
        self.timeouts.add(timeout_s)
        behaviour = self.behaviours[served.target.triton_name]
        if behaviour.score_error is not None:
            error, behaviour.score_error = behaviour.score_error, None if behaviour.recovers else behaviour.score_error
            raise Transient(error, "told to fail")
        assert self.open == 0, "a score while something else is asked"
        self.scored.append(len(token_ids))
        return (-behaviour.token_nll,) * (len(token_ids) - 1)

    async def retire(self, served: Sequence[ServedTarget]) -> None:
        self.retired.append([str(target.target) for target in served])


@dataclass
class FakeReports:
    """Reports in memory, create-only."""

    stored: dict[str, bytes] = field(default_factory=dict)
    artifacts: dict[str, bytes] = field(default_factory=dict)
    windows: dict[str, tuple[HeldOutWindow, ...]] = field(default_factory=dict)

    def find(self, output_key: str) -> tuple[BenchmarkReport, ArtifactRef] | None:
        return self._read(output_key) if output_key in self.stored else None

    def commit(self, report: BenchmarkReport) -> tuple[BenchmarkReport, ArtifactRef]:
        self.stored.setdefault(report.output_key, canonical_json(report.model_dump(mode="json")))
        return self._read(report.output_key)

    def held_out(self, manifest: ArtifactRef) -> tuple[HeldOutWindow, ...]:
        if manifest.uri not in self.windows:
            raise Permanent("artifact_not_found", f"{manifest.uri} does not exist.")
        return self.windows[manifest.uri]

    def put_manifest(self, windows: tuple[HeldOutWindow, ...], name: str = "manifest") -> ArtifactRef:
        self.windows[f"memory://{name}"] = windows
        return ArtifactRef(uri=f"memory://{name}", digest=digest_of(name.encode()), size_bytes=1)

    def evaluation(self, ref: ArtifactRef) -> bytes:
        if ref.uri not in self.artifacts:
            raise Permanent("artifact_not_found", f"{ref.uri} does not exist.")
        data = self.artifacts[ref.uri]
        if digest_of(data) != ref.digest:
            raise Permanent("digest_mismatch", f"{ref.uri} differs.")
        return data

    def put(self, uri: str, data: bytes) -> ArtifactRef:
        self.artifacts[uri] = data
        return ArtifactRef(uri=uri, digest=digest_of(data), size_bytes=len(data))

    def _read(self, output_key: str) -> tuple[BenchmarkReport, ArtifactRef]:
        data = self.stored[output_key]
        ref = ArtifactRef(uri=f"memory://{output_key}", digest=digest_of(data), size_bytes=len(data))
        return BenchmarkReport.model_validate_json(data), ref
