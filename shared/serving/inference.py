"""The client for a target on Triton: streams text deltas over gRPC, under deadlines, and always cancels what it leaves.

Triton keeps a stream open for ever when the model's process dies in the middle of it, and answers READY meanwhile;
only the deadlines here notice. The tensors are those of Triton's own vLLM backend.
"""

import asyncio
import contextlib
import json
import struct
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from shared.errors import Permanent, SlipwayError, Transient

CHANNEL_OPTIONS: Final = (
    ("grpc.max_send_message_length", 2**31 - 1),
    ("grpc.max_receive_message_length", 2**31 - 1),
    # gRPC backs off for seconds by default; a restarted Triton is usable 0.3 s after it listens with these.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)
NO_REASON = "None"
"""What the backends write where an answer has not finished."""

BROKEN_OFF: Final = frozenset({"abort", "error"})
"""Finish reasons of an answer that the engine gave up."""

USUAL_FLAGS: Final = (
    "exclude_input_in_output",
    "return_finish_reason",
    "return_num_input_tokens",
    "return_num_output_tokens",
)
"""What every request asks for besides the text."""


END_S: Final = 1.0
"""How long a stream that has finished may take to end before it is cancelled, seconds."""

REST_S: Final = 10.0
"""How long the rest of a probe's answer is read, seconds."""


@dataclass(frozen=True)
class Delta:
    """A piece of an answer.

    Attributes:
        text: new text; may be empty while a character is incomplete, and in the last piece.
        finish_reason: `stop`, `length` … in the last piece, else None.
        input_tokens: tokens of the whole prompt.
        output_tokens: tokens generated since the piece before.
        logprobs: log-probability of each of these tokens, in nats, where they were asked for and the engine gives them.
    """

    text: str
    finish_reason: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True)
class Deadlines:
    """How long the engine may stay silent before the first piece, and between two."""

    first_token_s: float = 60.0
    inter_token_s: float = 20.0


class Channels:
    """One gRPC channel per endpoint, shared by all requests (one carries more than a hundred streams)."""

    def __init__(self) -> None:
        self._open: dict[str, Any] = {}

    def get(self, endpoint: str) -> Any:
        """Return the channel of an endpoint, `host:port`; connecting happens in the background."""
        if endpoint not in self._open:
            import grpc.aio

            self._open[endpoint] = grpc.aio.insecure_channel(endpoint, options=CHANNEL_OPTIONS)
        return self._open[endpoint]

    async def keep_only(self, endpoints: Iterable[str]) -> None:
        """Close the channels of endpoints that are no longer used; their streams must have ended."""
        for endpoint in set(self._open) - set(endpoints):
            await self._open.pop(endpoint).close()

    async def close(self) -> None:
        """Close every channel."""
        await self.keep_only(())


async def generate(
    channel: Any,
    triton_name: str,
    prompt: str,
    sampling: Mapping[str, Any],
    *,
    deadlines: Deadlines | None = None,
    request_id: str = "",
    logprobs: bool = False,
) -> AsyncGenerator[Delta, None]:
    """Stream an answer; leaving the iteration early (`aclose`) aborts the request in the engine.

    Args:
        channel: from `Channels.get`.
        triton_name: `<model>.v<n>.<variant>`.
        prompt: the text, the chat template already applied.
        sampling: the engine's sampling parameters (`max_tokens`, `temperature`, `stop` …).
        deadlines: how long the engine may be silent.
        request_id: for the logs of Triton.
        logprobs: ask for the log-probabilities of the generated tokens, too.

    Yields:
        Pieces in order; the last one carries the finish reason.

    Raises:
        Transient: `endpoint_unreachable`, `engine_dead`, `engine_failed` or `no_first_token`.
        Permanent: `bad_request`: the engine cannot answer this prompt with these parameters.
    """
    asked = {**sampling, "logprobs": 1} if logprobs else sampling
    texts = {"text_input": prompt, "sampling_parameters": json.dumps(dict(asked))}
    flags = ("stream", *USUAL_FLAGS, "return_logprobs") if logprobs else ("stream", *USUAL_FLAGS)
    request = build_request(triton_name, texts, flags, request_id)
    finished = False
    async with contextlib.aclosing(stream_responses(channel, request, deadlines or Deadlines())) as responses:
        try:
            async for response in responses:
                delta = read_delta(response)
                if delta is None:
                    continue
                if delta.finish_reason in BROKEN_OFF:
                    raise Transient("engine_failed", f"The engine of {triton_name} broke the answer off.")
                finished = delta.finish_reason is not None
                yield delta
                if finished:
                    return
        finally:
            if finished:
                await _read_to_the_end(responses)
    if not finished:
        raise Transient("engine_dead", f"The stream of {triton_name} ended in the middle of an answer.")


async def stream_responses(channel: Any, request: Any, limits: Deadlines) -> AsyncGenerator[Any, None]:
    """Stream the responses (ModelInferResponse) to a request, up to the final one.

    Raises:
        SlipwayError: as `generate`.
    """
    import grpc
    from tritonclient.grpc import service_pb2_grpc

    name = request.model_name
    call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(iter([request]))
    begun = False
    try:
        while True:
            async with asyncio.timeout(limits.inter_token_s if begun else limits.first_token_s):
                response = await call.read()
            if response is grpc.aio.EOF:
                break
            if response.error_message:
                await _let_end(call)
                raise classify_engine_error(response.error_message, name)
            begun = True
            yield response.infer_response
            if response.infer_response.parameters["triton_final_response"].bool_param:
                await _let_end(call)
                break
    except TimeoutError:
        raise _silence(name, limits, begun=begun) from None
    except grpc.RpcError as error:
        raise classify_rpc_error(error, name) from error
    finally:
        call.cancel()


async def _read_to_the_end(responses: AsyncGenerator[Any, None], limit_s: float = END_S) -> None:
    """Read what is left of a stream that has finished, for a moment, so that it need not be cancelled."""
    with contextlib.suppress(SlipwayError, TimeoutError):
        async with asyncio.timeout(limit_s):
            async for _ in responses:
                pass


async def _let_end(call: Any) -> None:
    """Wait for a moment until the server ends a call that has said its last.

    Cancelling what is about to end races with its end inside Triton, which may then use freed memory: seen as SIGSEGV
    in ModelStreamInferHandler::Process and as `double free or corruption` (triton-inference-server/server 7368, 8034).
    """
    import grpc

    with contextlib.suppress(grpc.RpcError, TimeoutError):
        async with asyncio.timeout(END_S):
            while await call.read() is not grpc.aio.EOF:
                pass


async def first_token(channel: Any, triton_name: str, *, prompt: str = "Hello", deadline_s: float = 60.0) -> str:
    """Prove that a target is alive: give the first text that it generates.

    Raises:
        Transient: `no_first_token` when it finishes without any text; else as `generate`.
    """
    sampling = {"max_tokens": 8, "temperature": 0.0, "ignore_eos": True}
    stream = generate(
        channel, triton_name, prompt, sampling, deadlines=Deadlines(first_token_s=deadline_s, inter_token_s=deadline_s)
    )
    async with contextlib.AsyncExitStack() as leaving:
        leaving.push_async_callback(stream.aclose)
        async for delta in stream:
            if delta.text:
                leaving.pop_all()
                _end_later(stream)
                return delta.text
    raise Transient("no_first_token", f"{triton_name} finished without generating any text.")


_ending: set[asyncio.Task[None]] = set()


def _end_later(stream: AsyncGenerator[Any, None]) -> None:
    """Read a stream to its end in the background: it is short, and no caller waits for the rest."""

    async def end() -> None:
        async with contextlib.aclosing(stream):
            await _read_to_the_end(stream, REST_S)

    task = asyncio.create_task(end())
    _ending.add(task)
    task.add_done_callback(_ending.discard)


def encode_text(text: str) -> bytes:
    """Encode a string tensor of one element: length, then UTF-8.

    Raises:
        Permanent: `bad_request`: the text holds a lone surrogate, which UTF-8 cannot hold.
    """
    try:
        raw = text.encode()
    except UnicodeEncodeError as error:
        message = f"The text holds a lone surrogate (U+{ord(text[error.start]):04X}), which is no character."
        raise Permanent("bad_request", message) from error
    return struct.pack("<I", len(raw)) + raw


def decode_text(raw: bytes) -> str:
    """Decode the first element of a string tensor; empty when there is none."""
    if len(raw) < 4:
        return ""
    (length,) = struct.unpack_from("<I", raw)
    return raw[4 : 4 + length].decode("utf-8", errors="replace")


def raw_outputs(response: Any) -> dict[str, bytes]:
    """Return the tensors of a ModelInferResponse by name, undecoded."""
    return {
        tensor.name: content for tensor, content in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def read_delta(response: Any) -> Delta | None:
    """Read a piece from a ModelInferResponse; None when it only carries the final flag."""
    raw = raw_outputs(response)
    if "text_output" not in raw:
        return None
    reason = decode_text(raw.get("finish_reason", b""))
    return Delta(
        text=decode_text(raw["text_output"]),
        finish_reason=reason if reason not in {"", NO_REASON} else None,
        input_tokens=_count(raw.get("num_input_tokens", b"")),
        output_tokens=_count(raw.get("num_output_tokens", b"")),
        logprobs=_read_logprobs(raw.get("logprobs", b"")),
    )


def _read_logprobs(raw: bytes) -> tuple[float, ...]:
    """Read the log-probability of each token that was chosen: by greedy decoding the likeliest of its position."""
    positions = read_json(raw)
    if not isinstance(positions, list):
        return ()
    return tuple(max(float(one["logprob"]) for one in position.values()) for position in positions if position)


def read_json(raw: bytes) -> Any:
    """Read a string tensor of one element that holds JSON; None when it holds none."""
    try:
        return json.loads(decode_text(raw) or "null")
    except ValueError:
        return None


def classify_engine_error(message: str, triton_name: str) -> SlipwayError:
    """Return what an error that came through the stream means; our backends put a stable code first.

    Words are looked for only where there is no code: behind one they may come from the caller's text.
    """
    code, _, rest = message.partition(": ")
    if code == "bad_request":
        return Permanent("bad_request", rest, target=triton_name)
    if code == "engine_failed":
        return Transient("engine_failed", f"The engine of {triton_name} failed: {rest}", target=triton_name)
    if code == "engine_dead" or "EngineDeadError" in message:
        return Transient("engine_dead", f"The engine of {triton_name} is dead: {message}", target=triton_name)
    if "unknown model" in message or "is not ready" in message or "not found" in message:
        return Transient("endpoint_unreachable", f"{triton_name} is not loaded there: {message}", target=triton_name)
    if "stub" in message.lower():
        return Transient("engine_dead", f"The process of {triton_name} died: {message}", target=triton_name)
    return Transient("engine_failed", f"The engine of {triton_name} failed: {message}", target=triton_name)


def classify_rpc_error(error: Any, triton_name: str) -> SlipwayError:
    """Return what a failed call means."""
    name, details = error.code().name, error.details() or ""
    if name in {"INVALID_ARGUMENT", "OUT_OF_RANGE"}:
        return Permanent("bad_request", details, target=triton_name)
    if name in {"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "UNKNOWN"}:
        reason = f"The endpoint of {triton_name} does not answer ({name}): {details}"
        return Transient("endpoint_unreachable", reason, target=triton_name)
    return Transient("engine_failed", f"The call to {triton_name} failed ({name}): {details}", target=triton_name)


def _silence(triton_name: str, limits: Deadlines, *, begun: bool) -> Transient:
    """Return the error of a stream that was silent too long; `silent_s` sets it apart from a death that is reported."""
    if begun:
        reason = f"{triton_name} fell silent for {limits.inter_token_s:g} s in an answer."
        return Transient("engine_dead", reason, silent_s=limits.inter_token_s)
    reason = f"{triton_name} generated nothing for {limits.first_token_s:g} s."
    return Transient("no_first_token", reason, silent_s=limits.first_token_s)


def _count(raw: bytes) -> int:
    return int(struct.unpack_from("<I", raw)[0]) if len(raw) >= 4 else 0


def build_request(triton_name: str, texts: Mapping[str, str], flags: Iterable[str], request_id: str = "") -> Any:
    """Build a ModelInferRequest: string tensors of one element, and flags that are set."""
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name=triton_name, id=request_id)
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    for name, text in texts.items():
        request.inputs.add(name=name, datatype="BYTES", shape=[1])
        request.raw_input_contents.append(encode_text(text))
    for name in flags:
        request.inputs.add(name=name, datatype="BOOL", shape=[1])
        request.raw_input_contents.append(b"\x01")
    return request
