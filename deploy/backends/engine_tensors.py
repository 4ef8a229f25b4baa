"""The tensors of every Slipway engine backend.

Text: a request has `text_input` or `prompt_token_ids` (a JSON list), and `sampling_parameters` (a JSON object). The
answer is a stream of `text_output`, `finish_reason` (empty before the end), `num_input_tokens` and `num_output_tokens`
(of this part). `return_logprobs` adds `logprobs`: a JSON list with the log-probability, in nats, of each token of the
part. `return_prompt_logprobs` makes it one response with `prompt_logprobs`: the same of each token of the prompt, null
for the first. Only requests with the same `cache_salt` share cached prefixes.

OpenAI API: a request has `http_request` (a JSON object with method, path, request_id, deadline_s, model, cache_salt,
stream and holder) and `http_body`. All requests of a gRPC stream have the same `stream`; the parts of their answers
come in frames. A frame has `http_record`, a JSON list with an object for each part, and `http_body` with the bytes of
the part at the same position. The object has `id` (the Triton request id), `number` (the parts of that request before
it), `record` (the engine's work since the last part), with the first part that has bytes `status` and `headers`, with
the last part `last`, and after a failure `error`. Any request of the stream may carry a frame, and Triton may deliver
frames of two requests in another order than they were sent in.

Abort: `http_request` with `{"abort": ID}` alone aborts the request of the same model with this Triton request id,
because a gRPC stream cannot cancel a single request. Its answer is empty.

Copied beside each backend's ``model.py`` when the run folder is prepared. Runs inside Triton's Python stub.
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
    sampling: dict[str, Any]
    want_logprobs: bool = False
    want_prompt_logprobs: bool = False
    cache_salt: str | None = None


@dataclass(frozen=True)
class Piece:
    """A part of an answer as text; the whole answer where the prompt is scored."""

    text: str
    finish_reason: str | None = None
    num_input_tokens: int = 0
    num_output_tokens: int = 0
    logprobs: list[float] | None = None
    prompt_logprobs: list[float | None] | None = None


@dataclass(frozen=True)
class HttpAsk:
    """A request of the OpenAI API.

    Attributes:
        method, path: as in HTTP; the path without a query.
        body: the JSON body, undecoded.
        request_id: the gateway's id of the request.
        deadline_s: time limit of the whole answer, in seconds.
        model: model name in the answer; None for the engine's own.
        cache_salt: only requests with the same salt share cached prefixes.
        stream: id of the gRPC stream; answers of one stream share frames.
        holder: pseudonym of the caller, for turns among callers; empty if unknown.
    """

    method: str
    path: str
    body: bytes
    request_id: str
    deadline_s: float
    model: str | None = None
    cache_salt: str | None = None
    stream: str = ""
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


def parse_http(request: Any) -> HttpAsk | Abort | None:
    """Return the decoded request of the OpenAI API, or the order to abort one; None for a request as text.

    Raises:
        BadRequestError: `http_request` cannot be decoded.
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
            stream=str(head["stream"]),
            holder=str(head.get("holder") or ""),
        )
    except (ValueError, TypeError, KeyError) as error:
        raise BadRequestError(
            f"http_request must be a JSON object with method, path, request_id, deadline_s and stream: {error!r}"
        ) from error


def parse(request: Any) -> Ask:
    """Return the decoded request as text.

    Raises:
        BadRequestError: a tensor is missing or cannot be decoded; the message names it.
    """
    raw = _first(request, "text_input")
    if raw is None:
        raise BadRequestError("text_input is missing")
    encoded = _first(request, "sampling_parameters")
    try:
        text = _text(raw)
        sampling = {} if encoded is None else json.loads(_text(encoded) or "{}")
    except ValueError as error:
        raise BadRequestError(f"text_input must be UTF-8 and sampling_parameters a JSON object: {error}") from error
    if not isinstance(sampling, dict):
        raise BadRequestError("sampling_parameters must be a JSON object")
    return Ask(
        text=text,
        token_ids=_token_ids(request),
        sampling=sampling,
        want_logprobs=bool(_first(request, "return_logprobs")),
        want_prompt_logprobs=bool(_first(request, "return_prompt_logprobs")),
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
    return pb_utils.Tensor(name, np.asarray([value.encode()], dtype=np.object_))


def render(ask: Ask, piece: Piece) -> Any:
    """Return a part of an answer as text as a Triton response."""
    tensors = [_strings("text_output", piece.text), _strings("finish_reason", piece.finish_reason or "")]
    counts = {"num_input_tokens": piece.num_input_tokens, "num_output_tokens": piece.num_output_tokens}
    tensors += [pb_utils.Tensor(name, np.asarray([count], dtype=np.uint32)) for name, count in counts.items()]
    if ask.want_logprobs:
        tensors.append(_strings("logprobs", json.dumps(piece.logprobs)))
    if ask.want_prompt_logprobs:
        tensors.append(_strings("prompt_logprobs", json.dumps(piece.prompt_logprobs)))
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
