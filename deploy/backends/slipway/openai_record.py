"""The engine's record of one request of the OpenAI API, from the engine's own outputs.

Each part of an answer has a record, so that its bytes need not be decoded:

    output_tokens, prompt_tokens: counts so far, of all answers of the request.
    cached_tokens: tokens of the prompts in the engine's prefix cache; absent until known.
    texts: `[[answer, text], …]`, new since the last record.
    finish_reasons: `{answer: reason}` of answers ended since the last record.
    queue_ms, first_token_ms: the engine's times, from its first output on.
    logprob_mean: mean log-probability of the generated tokens, in nats, if the request asked for log-probabilities.
    nan_logits: whether the engine met a NaN, from its first token on; absent without this check.
    error: `{"class", "source"}` of a failure; `error_source` lists the sources.

Without bytes, a record is sent at the first token, and then every `PROGRESS_S` during generation: callers can time the
first token, and detect a silent engine.
"""

import asyncio
import contextlib
import contextvars
import json
import os
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any

from error_source import find_source, is_missing_setting
from schema_check import SchemaCheck, require_compiled

PROGRESS_S = 0.5
_FIRST_ERROR_STATUS = 400
_FIRST_SERVER_ERROR_STATUS = 500
_ERROR_EVENT = b'data: {"error":'
_PARTS = frozenset({"encoder_prompt", "decoder_prompt"})
"""Keys of encoder-decoder prompts, for which the engine ignores a salt."""


@dataclass
class Recorder:
    """The engine's work for one request since the last record.

    Attributes:
        clock: returns seconds.
        report: called when a record is due without bytes.
        model: model name in the answer; None for the engine's own.
        cache_salt: only requests with the same salt share cached prefixes.
    """

    clock: Callable[[], float]
    report: Callable[[], None]
    model: str | None = None
    cache_salt: str | None = None
    prompt_tokens: int = 0
    output_tokens: int = 0
    answers: int = 0
    cached_tokens: dict[int, int] = field(default_factory=dict)
    texts: list[tuple[str, str]] = field(default_factory=list)
    finish_reasons: dict[str, str] = field(default_factory=dict)
    queue_ms: float | None = None
    first_token_ms: float | None = None
    logprob_sum: float = 0.0
    logprob_tokens: int = 0
    nan_logits: bool | None = None
    error: dict[str, str] | None = None
    _has_reported_tokens: bool = False
    _last_record_s: float = 0.0

    def __post_init__(self) -> None:
        """Count the time without a record from now."""
        self._last_record_s = self.clock()

    def note_step(self, tokens: int, stats: Any) -> None:
        """Note the tokens of one engine step; `stats` are vLLM's for the answer, or None."""
        self.output_tokens += tokens
        if stats is None:
            return
        if self.first_token_ms is None and stats.first_token_ts:
            self.queue_ms = max(0.0, (stats.scheduled_ts - stats.queued_ts) * 1000.0)
            self.first_token_ms = max(0.0, (stats.first_token_ts - stats.queued_ts) * 1000.0)
        if counts_nan():
            self.nan_logits = self.nan_logits or bool(stats.is_corrupted)

    def note_output(self, answer: int, output: Any) -> None:
        """Note an output of the engine for a prompt, numbered within the request."""
        if output.num_cached_tokens is not None:
            self.cached_tokens[answer] = output.num_cached_tokens
        for part in output.outputs:
            name = f"{answer}.{part.index}"
            if part.text:
                self.texts.append((name, part.text))
            if part.finish_reason is not None:
                self.finish_reasons[name] = str(part.finish_reason)
            for token, position in zip(part.token_ids, part.logprobs or (), strict=False):
                if token in position:
                    self.logprob_sum += position[token].logprob
                    self.logprob_tokens += 1

    def note_error(self, error: BaseException) -> None:
        """Note the first failure of the request, by its class, or the code of the backend's own refusal."""
        if self.error is not None:
            return
        code = getattr(error, "refusal_code", None)
        source = "validation" if code else find_source(error, started=bool(self.answers))
        self.error = {"class": code or type(error).__name__, "source": source}

    def note_answer(self, status: int | None, body: bytes) -> None:
        """Note a failure visible in the answer only: an error event, or an error status."""
        if self.error is not None:
            return
        if body.startswith(_ERROR_EVENT):
            self.error = {"class": "ErrorEvent", "source": "parser"}
        elif status is not None and status >= _FIRST_ERROR_STATUS:
            source = "validation" if status < _FIRST_SERVER_ERROR_STATUS else "application"
            if is_missing_setting(_message(body)):
                source = "settings"
            self.error = {"class": f"Status{status}", "source": source}

    def report_progress(self) -> None:
        """Ask for a record without bytes if one is due."""
        is_first_token = self.output_tokens > 0 and not self._has_reported_tokens
        if is_first_token or self.clock() - self._last_record_s >= PROGRESS_S:
            self._note_record()
            self.report()

    def _note_record(self) -> None:
        self._last_record_s = self.clock()
        self._has_reported_tokens = self.output_tokens > 0

    def take(self) -> dict[str, Any]:
        """Return the record since the last call."""
        self._note_record()
        record: dict[str, Any] = {"prompt_tokens": self.prompt_tokens, "output_tokens": self.output_tokens}
        if self.cached_tokens:
            record["cached_tokens"] = sum(self.cached_tokens.values())
        if self.texts:
            record["texts"], self.texts = self.texts, []
        if self.finish_reasons:
            record["finish_reasons"], self.finish_reasons = self.finish_reasons, {}
        for name in ("queue_ms", "first_token_ms"):
            if (value := getattr(self, name)) is not None:
                record[name] = round(value, 3)
        if self.logprob_tokens:
            record["logprob_mean"] = self.logprob_sum / self.logprob_tokens
        if self.nan_logits is not None:
            record["nan_logits"] = self.nan_logits
        if self.error is not None:
            record["error"] = self.error
        return record


def counts_nan() -> bool:
    """Return whether this engine counts NaN among its logits, by vLLM's own variable."""
    return bool(int(os.environ.get("VLLM_COMPUTE_NANS_IN_LOGITS", "0")))


def _message(body: bytes) -> str:
    """Return the message of an error in OpenAI's form; empty if it has another."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, TypeError, KeyError):
        return ""


current: contextvars.ContextVar[Recorder | None] = contextvars.ContextVar("recorder", default=None)
"""The recorder of the current request; tasks of the application inherit it."""


def record_outputs(engine: type[Any]) -> type[Any]:
    """Return an engine class (`AsyncLLM`) that notes its outputs in the current request's recorder.

    It refuses structured outputs with constraints above the limits of `schemas`.
    """

    class RecordedEngine(engine):  # type: ignore[misc]  # the class comes from vLLM, which is not in this environment
        schemas: SchemaCheck | None = None

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.output_processor.__class__ = _record_steps(type(self.output_processor))

        async def generate(
            self, prompt: Any, sampling_params: Any, request_id: str, **options: Any
        ) -> AsyncGenerator[Any, None]:
            recorder = current.get() or Recorder(time.monotonic, lambda: None)  # requests as text have none
            answer, recorder.answers = recorder.answers, recorder.answers + 1
            try:
                prompt = salted(prompt, recorder.cache_salt)
                if self.schemas is not None and getattr(sampling_params, "structured_outputs", None) is not None:
                    await require_compiled(self.schemas, sampling_params.structured_outputs)
                async with contextlib.aclosing(
                    super().generate(prompt, sampling_params, request_id, **options)
                ) as outputs:
                    async for output in outputs:
                        recorder.note_output(answer, output)
                        yield output
                        if not output.finished:
                            recorder.report_progress()  # the application has sent what it makes of this output
            except (GeneratorExit, asyncio.CancelledError):
                raise
            except BaseException as error:
                recorder.note_error(error)
                raise

        async def encode(self, prompt: Any, *arguments: Any, **options: Any) -> AsyncGenerator[Any, None]:
            recorder = current.get()
            prompt = salted(prompt, recorder.cache_salt if recorder is not None else None)
            async with contextlib.aclosing(super().encode(prompt, *arguments, **options)) as outputs:
                async for output in outputs:
                    yield output

    return RecordedEngine


def salted(prompt: Any, salt: str | None) -> Any:
    """Return a prompt with a cache salt; unchanged for None.

    Raises:
        ValueError: this form of prompt takes no salt.
    """
    if salt is None:
        return prompt
    if not isinstance(prompt, dict) or _PARTS & prompt.keys():
        raise ValueError(
            f"A prompt of this form ({type(prompt).__name__}) cannot be kept apart in the cache; send text or tokens."
        )
    return {**prompt, "cache_salt": salt}


def _record_steps(processor: type[Any]) -> type[Any]:
    """Return a class of vLLM's output processor that notes each engine step, also of answers in one part."""
    from vllm.sampling_params import RequestOutputKind

    class RecordedProcessor(processor):  # type: ignore[misc]  # as above
        def add_request(
            self, request: Any, prompt: Any, parent_req: Any = None, request_index: int = 0, queue: Any = None
        ) -> None:
            super().add_request(request, prompt, parent_req, request_index, queue)
            if (recorder := current.get()) is not None:
                state = self.request_states[request.request_id]
                state.recorder = recorder
                if request_index == 0:
                    recorder.prompt_tokens += state.prompt_len

        def process_outputs(self, engine_core_outputs: list[Any], *args: Any, **kwargs: Any) -> Any:
            states = [self.request_states.get(output.request_id) for output in engine_core_outputs]
            result = super().process_outputs(engine_core_outputs, *args, **kwargs)
            for output, state in zip(engine_core_outputs, states, strict=True):
                recorder = getattr(state, "recorder", None)
                if recorder is None:
                    continue
                recorder.note_step(len(output.new_token_ids), state.stats)
                if state.output_kind is not RequestOutputKind.DELTA and output.request_id in self.request_states:
                    recorder.report_progress()
            return result

    return RecordedProcessor
