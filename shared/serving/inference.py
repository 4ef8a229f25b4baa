"""The client of a target: text generation, scoring and probes, over gRPC to Triton or HTTP to attached servers.

If the model's process dies during a stream, Triton keeps the stream open and still reports READY: only the deadlines
here detect it.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shared.errors import Permanent, SlipwayError, Transient
from shared.serving.tensors import Delta, build_request, raw_outputs, read_delta, read_json

ABORTED: Final = frozenset({"abort", "error"})
"""Finish reasons of aborted answers."""

PROMPT_LOGPROBS: Final = "prompt_logprobs"

END_S: Final = 1.0
"""Time for a finished stream to end before it is cancelled, in seconds."""

REST_S: Final = 10.0
"""Time limit for the rest of a probe's answer, in seconds."""


@dataclass(frozen=True)
class Deadlines:
    """Time limits of an engine's silence: before the first token, and between two pieces after it."""

    first_token_s: float = 60.0
    inter_token_s: float = 20.0


def is_api_server(channel: Any) -> bool:
    """Return whether a channel is an `HttpChannel` to a server of the OpenAI API, not a gRPC channel to a Triton."""
    return hasattr(channel, "stream_api")


async def generate(
    channel: Any,
    triton_name: str,
    prompt: str,
    sampling: Mapping[str, Any],
    *,
    deadlines: Deadlines | None = None,
    logprobs: bool = False,
    cache_salt: str | None = None,
) -> AsyncGenerator[Delta, None]:
    """Stream an answer; leaving the iteration early (`aclose`) aborts the request in the engine.

    Args:
        channel: from `Channels.get`.
        triton_name: `<model>.v<n>.<variant>`.
        prompt: the text, the chat template already applied.
        sampling: the engine's sampling parameters (`max_tokens`, `temperature`, `stop` …).
        deadlines: time limits of the engine's silence.
        logprobs: request the log-probabilities of the generated tokens, too.
        cache_salt: only requests with the same salt share cached prefixes.

    Yields:
        Pieces in order; the last one carries the finish reason.

    Raises:
        Transient: `endpoint_unreachable`, `engine_dead`, `engine_failed` or `no_first_token`.
        Permanent: `bad_request`: the engine cannot answer this prompt with these parameters.
    """
    limits = deadlines or Deadlines()
    if is_api_server(channel):
        parameters = {**sampling, "logprobs": 1} if logprobs else sampling
        async with contextlib.aclosing(channel.generate(triton_name, prompt, parameters, limits, cache_salt)) as deltas:
            async for part in deltas:
                yield part
        return
    texts = {"text_input": prompt, "sampling_parameters": json.dumps(dict(sampling))}
    if cache_salt is not None:
        texts["cache_salt"] = cache_salt
    request = build_request(triton_name, texts, ["return_logprobs"] if logprobs else [])
    finished = False
    async with contextlib.aclosing(stream_responses(channel, request, limits)) as responses:
        try:
            async for response in responses:
                delta = read_delta(response)
                if delta is None:
                    continue
                if delta.finish_reason in ABORTED:
                    raise Transient("engine_failed", f"The engine of {triton_name} aborted the answer.")
                finished = delta.finish_reason is not None
                yield delta
                if finished:
                    return
        finally:
            if finished:
                await _read_to_end(responses)
    if not finished:
        raise Transient("engine_dead", f"The stream of {triton_name} ended in the middle of an answer.")


async def score_prompt(channel: Any, name: str, prompt: str | Sequence[int], limit_s: float) -> tuple[float, ...]:
    """Return the log-probability, in nats, of every token of a prompt but the first; nothing if none are reported.

    Args:
        channel: to a Triton, from `Channels.get`.
        name: `<model>.v<n>.<variant>`.
        prompt: a text, or its token ids.
        limit_s: time limit of the engine.

    Raises:
        SlipwayError: as `generate`.
    """
    sampling = json.dumps({"max_tokens": 1, "temperature": 0.0})  # vLLM generates at least one token
    inputs = {"text_input": prompt if isinstance(prompt, str) else "", "sampling_parameters": sampling}
    if not isinstance(prompt, str):
        inputs["prompt_token_ids"] = json.dumps(list(prompt))
    request = build_request(name, inputs, ["return_prompt_logprobs"])
    output: Any = None
    async with contextlib.aclosing(stream_responses(channel, request, Deadlines(limit_s, limit_s))) as responses:
        async for response in responses:
            output = read_json(raw_outputs(response).get(PROMPT_LOGPROBS, b"")) or output
    return tuple(float(value) for value in output or () if isinstance(value, int | float))


async def stream_responses(channel: Any, request: Any, limits: Deadlines) -> AsyncGenerator[Any, None]:
    """Stream the responses (ModelInferResponse) to a request, up to the final response.

    Raises:
        SlipwayError: as `generate`.
    """
    import grpc
    from tritonclient.grpc import service_pb2_grpc

    name = request.model_name
    call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(iter([request]))
    has_started = False
    try:
        while True:
            async with asyncio.timeout(limits.inter_token_s if has_started else limits.first_token_s):
                response = await call.read()
            if response is grpc.aio.EOF:
                break
            if response.error_message:
                await _wait_for_end(call)
                raise classify_engine_error(response.error_message, name)
            has_started = True
            yield response.infer_response
            if response.infer_response.parameters["triton_final_response"].bool_param:
                await _wait_for_end(call)
                break
    except TimeoutError:
        raise silence_error(name, limits, has_started=has_started) from None
    except grpc.RpcError as error:
        raise classify_rpc_error(error, name) from error
    finally:
        call.cancel()


async def _read_to_end(responses: AsyncGenerator[Any, None], limit_s: float = END_S) -> None:
    """Read the rest of a finished stream, up to a time limit, so that it need not be cancelled."""
    with contextlib.suppress(SlipwayError, TimeoutError):
        async with asyncio.timeout(limit_s):
            async for _ in responses:
                pass


async def _wait_for_end(call: Any) -> None:
    """Wait, up to a time limit, until the server ends a call after its last response.

    Cancelling a call near its end is a race in Triton, which may use freed memory: SIGSEGV in
    ModelStreamInferHandler::Process, `double free or corruption` (triton-inference-server/server 7368, 8034).
    """
    import grpc

    with contextlib.suppress(grpc.RpcError, TimeoutError):
        async with asyncio.timeout(END_S):
            while await call.read() is not grpc.aio.EOF:
                pass


async def first_token(channel: Any, triton_name: str, *, prompt: str = "Hello", deadline_s: float = 60.0) -> str:
    """Return the first text that a target generates, as a proof that it is alive.

    Raises:
        Transient: `no_first_token` if it finishes without any text; else as `generate`.
    """
    sampling = {"max_tokens": 8, "temperature": 0.0, "ignore_eos": True}
    stream = generate(
        channel, triton_name, prompt, sampling, deadlines=Deadlines(first_token_s=deadline_s, inter_token_s=deadline_s)
    )
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(stream.aclose)
        async for delta in stream:
            if delta.text:
                stack.pop_all()
                _end_later(stream)
                return delta.text
    raise Transient("no_first_token", f"{triton_name} finished without generating any text.")


_ending: set[asyncio.Task[None]] = set()


def _end_later(stream: AsyncGenerator[Any, None]) -> None:
    """Read a short stream to its end in the background."""

    async def end() -> None:
        async with contextlib.aclosing(stream):
            await _read_to_end(stream, REST_S)

    task = asyncio.create_task(end())
    _ending.add(task)
    task.add_done_callback(_ending.discard)


def classify_engine_error(message: str, triton_name: str) -> SlipwayError:
    """Return the error for an error message in a stream; our backends begin it with a stable code.

    Phrases are matched only without a code, after which the text may be the caller's. The detail `not_loaded` means
    that the server answers without the target.
    """
    code, _, rest = message.partition(": ")
    if code == "bad_request":
        return Permanent("bad_request", rest, target=triton_name)
    if code == "engine_failed":
        return Transient("engine_failed", f"The engine of {triton_name} failed: {rest}", target=triton_name)
    if code == "engine_dead" or "EngineDeadError" in message:
        return Transient("engine_dead", f"The engine of {triton_name} is dead: {message}", target=triton_name)
    if "unknown model" in message or "is not ready" in message or "not found" in message:
        return Transient(
            "endpoint_unreachable", f"{triton_name} is not loaded there: {message}", target=triton_name, not_loaded=True
        )
    if "stub" in message.lower():
        return Transient("engine_dead", f"The process of {triton_name} died: {message}", target=triton_name)
    return Transient("engine_failed", f"The engine of {triton_name} failed: {message}", target=triton_name)


def classify_rpc_error(error: Any, triton_name: str) -> SlipwayError:
    """Return the error for a failed gRPC call."""
    name, details = error.code().name, error.details() or ""
    if name in {"INVALID_ARGUMENT", "OUT_OF_RANGE"}:
        return Permanent("bad_request", details, target=triton_name)
    if name in {"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "UNKNOWN"}:
        return Transient(
            "endpoint_unreachable",
            f"The endpoint of {triton_name} does not answer ({name}): {details}",
            target=triton_name,
        )
    return Transient("engine_failed", f"The call to {triton_name} failed ({name}): {details}", target=triton_name)


def silence_error(triton_name: str, limits: Deadlines, *, has_started: bool) -> Transient:
    """Return the error of a stream that was silent too long, with the detail `silent_s`."""
    if has_started:
        return Transient(
            "engine_dead",
            f"{triton_name} sent nothing for {limits.inter_token_s:g} s during an answer.",
            silent_s=limits.inter_token_s,
        )
    return Transient(
        "no_first_token",
        f"{triton_name} generated nothing within {limits.first_token_s:g} s.",
        silent_s=limits.first_token_s,
    )
