"""The tensors of every Slipway engine backend: those of Triton's own vLLM backend, and three more.

`prompt_token_ids` (a JSON list) replaces the text, and `return_prompt_logprobs` requests its score: `prompt_logprobs`
is a JSON list with the log-probability, in nats, of each token of the prompt given those before it; the first is null.
Only requests with the same `cache_salt` share cached prefixes.

A request of the OpenAI API comes as `http_request` (a JSON object with method, path, request_id, deadline_s, model,
cache_salt, stream and holder) and `http_body` instead. Its answer comes in parts: `http_body` has bytes of
the body, `http_record` what the engine did for them (a JSON object), and the first part with bytes `http_head` (a JSON
object with status and headers). A part without bytes reports progress only, also before the first one with bytes.

If `stream` is set, to the same value for all requests of a gRPC stream, their parts come in frames instead. A response
is a frame if `http_record` is a JSON list: of an object for each part, whose bytes are the element of `http_body` at
the same position. Any request of the stream may carry a frame, and Triton may deliver two requests' frames in another
order than they were sent in. The object has `id` (the Triton request id), `number` (the parts of that request before
it), `record`, with the first part `status` and `headers`, with the last `last`, and after a failure `error`.

A gRPC stream cannot cancel a single request: `http_request` with `{"abort": ID}` alone aborts the request to the same
model that has this Triton request id. Its answer is empty.

Copied next to each backend's ``model.py`` when the run folder is prepared, so that both engines parse and answer
requests with the same code. Runs inside Triton's Python stub.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class BadRequestError(Exception):
    """The tensors of a request are not valid; the message says what to change."""


@dataclass(frozen=True)
class Ask:
    """One request, decoded from its tensors."""

    text: str
    token_ids: list[int] | None
    stream: bool
    sampling: dict[str, Any]
    prepend_input: bool
    want_finish_reason: bool
    want_cumulative_logprob: bool
    want_logprobs: bool
    want_prompt_logprobs: bool
    want_num_input_tokens: bool
    want_num_output_tokens: bool
    cache_salt: str | None = None


@dataclass(frozen=True)
class Piece:
    """A part of an answer: a delta when streaming, else the whole answer.

    Token counts follow Triton's vLLM backend: ``num_output_tokens`` counts the tokens of this part only.
    """

    text: str
    finish_reason: str | None = None
    num_input_tokens: int = 0
    num_output_tokens: int = 0
    cumulative_logprob: float | None = None
    logprobs: list[dict[str, Any]] | None = None
    prompt_logprobs: list[float | None] | None = None


@dataclass(frozen=True)
class HttpAsk:
    """A request of the OpenAI API.

    Attributes:
        method, path: as in HTTP; the path without a query.
        body: the JSON body, undecoded.
        request_id: the gateway's id of the request.
        deadline_s: seconds that the whole answer may take.
        model: the name that the answer has for the model; None for the engine's own.
        cache_salt: only requests with the same salt share cached prefixes; None for all without one.
        stream: shared by all requests of a gRPC stream, whose answers share frames; None for an answer without.
        holder: a pseudonym of the caller, whose large bodies take turns with other callers'; empty if unknown.
    """

    method: str
    path: str
    body: bytes
    request_id: str
    deadline_s: float
    model: str | None = None
    cache_salt: str | None = None
    stream: str | None = None
    holder: str = ""


@dataclass(frozen=True)
class Abort:
    """The order to abort the request that has this Triton request id."""

    request_id: str


@dataclass(frozen=True)
class HttpPiece:
    """A part of an answer of the OpenAI API: status and headers come with the first one that has bytes."""

    body: bytes
    record: Mapping[str, Any]
    status: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    last: bool = False


def _first(request: Any, name: str) -> Any:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        return None
    values = tensor.as_numpy().reshape(-1)
    return values[0] if values.size else None


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _flag(request: Any, name: str, *, default: bool = False) -> bool:
    value = _first(request, name)
    return default if value is None else bool(value)


def parse_http(request: Any) -> HttpAsk | Abort | None:
    """Return the decoded request if it is one of the OpenAI API, or the abort of one, else None.

    Raises:
        BadRequestError: a tensor is missing or cannot be decoded; the message names it.
    """
    encoded = _first(request, "http_request")
    if encoded is None:
        return None
    body = _first(request, "http_body")
    try:
        head = json.loads(_text(encoded))
        if "abort" in head:
            return Abort(str(head["abort"]))
        return HttpAsk(
            method=str(head["method"]),
            path=str(head["path"]),
            body=bytes(body) if body is not None else b"",
            request_id=str(head["request_id"]),
            deadline_s=float(head["deadline_s"]),
            model=str(head["model"]) if head.get("model") else None,
            cache_salt=str(head["cache_salt"]) if head.get("cache_salt") else None,
            stream=str(head["stream"]) if head.get("stream") else None,
            holder=str(head.get("holder") or ""),
        )
    except (ValueError, TypeError, KeyError) as error:
        message = f"http_request must be a JSON object with method, path, request_id and deadline_s: {error!r}"
        raise BadRequestError(message) from error


def parse(request: Any) -> Ask:
    """Return the decoded request.

    Raises:
        BadRequestError: a tensor is missing, cannot be decoded, or excludes another one; the message names it.
    """
    raw = _first(request, "text_input")
    if raw is None:
        message = "text_input is missing"
        raise BadRequestError(message)
    stream = _flag(request, "stream")
    encoded = _first(request, "sampling_parameters")
    try:
        text = _text(raw)
        sampling = {} if encoded is None else json.loads(_text(encoded) or "{}")
    except ValueError as error:
        message = f"text_input must be UTF-8 and sampling_parameters a JSON object: {error}"
        raise BadRequestError(message) from error
    if not isinstance(sampling, dict):
        message = "sampling_parameters must be a JSON object"
        raise BadRequestError(message)
    exclude = _flag(request, "exclude_input_in_output", default=stream)
    if stream and not exclude:
        message = "exclude_input_in_output must be true (or left out) when streaming"
        raise BadRequestError(message)
    want_prompt_logprobs = _flag(request, "return_prompt_logprobs")
    if stream and want_prompt_logprobs:
        message = "return_prompt_logprobs excludes stream: leave stream out"
        raise BadRequestError(message)
    return Ask(
        text=text,
        token_ids=_token_ids(request),
        stream=stream,
        sampling=sampling,
        prepend_input=not exclude,
        want_finish_reason=_flag(request, "return_finish_reason"),
        want_cumulative_logprob=_flag(request, "return_cumulative_logprob"),
        want_logprobs=_flag(request, "return_logprobs"),
        want_prompt_logprobs=want_prompt_logprobs,
        want_num_input_tokens=_flag(request, "return_num_input_tokens"),
        want_num_output_tokens=_flag(request, "return_num_output_tokens"),
        cache_salt=_text(salt) if (salt := _first(request, "cache_salt")) else None,
    )


def _token_ids(request: Any) -> list[int] | None:
    encoded = _first(request, "prompt_token_ids")
    if encoded is None:
        return None
    message = "prompt_token_ids must be a JSON list of integers, at least one"
    try:
        ids = json.loads(_text(encoded))
    except ValueError as error:
        raise BadRequestError(message) from error
    if not isinstance(ids, list) or not ids or not all(type(token) is int for token in ids):
        raise BadRequestError(message)
    return ids


def _strings(name: str, value: str) -> Any:
    return _bytes(name, value.encode("utf-8"))


def _bytes(name: str, value: bytes) -> Any:
    return pb_utils.Tensor(name, np.asarray([value], dtype=np.object_))


def render(ask: Ask, piece: Piece) -> Any:
    """Return a part of an answer as a Triton response with the requested outputs."""
    tensors = [_strings("text_output", piece.text)]
    if ask.want_finish_reason:
        tensors.append(_strings("finish_reason", str(piece.finish_reason)))
    if ask.want_cumulative_logprob:
        value = np.nan if piece.cumulative_logprob is None else piece.cumulative_logprob
        tensors.append(pb_utils.Tensor("cumulative_logprob", np.asarray([value], dtype=np.float32)))
    if ask.want_logprobs:
        tensors.append(_strings("logprobs", json.dumps(piece.logprobs)))
    if ask.want_prompt_logprobs:
        tensors.append(_strings("prompt_logprobs", json.dumps(piece.prompt_logprobs)))
    for requested, name, count in (
        (ask.want_num_input_tokens, "num_input_tokens", piece.num_input_tokens),
        (ask.want_num_output_tokens, "num_output_tokens", piece.num_output_tokens),
    ):
        if requested:
            tensors.append(pb_utils.Tensor(name, np.asarray([count], dtype=np.uint32)))
    return pb_utils.InferenceResponse(output_tensors=tensors)


def render_http(piece: HttpPiece) -> Any:
    """Return a part of an answer of the OpenAI API as a Triton response."""
    tensors = [_bytes("http_body", piece.body), _strings("http_record", json.dumps(dict(piece.record)))]
    if piece.status is not None:
        tensors.append(_strings("http_head", json.dumps({"status": piece.status, "headers": piece.headers})))
    return pb_utils.InferenceResponse(output_tensors=tensors)


def render_frame(rows: Sequence[str], bodies: Sequence[bytes]) -> Any:
    """Return parts of several answers as a Triton response: a JSON object about each, and its bytes."""
    contents = np.empty(len(bodies), dtype=np.object_)
    contents[:] = bodies
    tensors = [pb_utils.Tensor("http_body", contents), _strings("http_record", f"[{','.join(rows)}]")]
    return pb_utils.InferenceResponse(output_tensors=tensors)


def parameters(args: dict[str, str]) -> dict[str, str]:
    """Return the ``parameters`` of config.pbtxt as plain strings."""
    config = json.loads(args["model_config"])
    return {name: value["string_value"] for name, value in config.get("parameters", {}).items()}
