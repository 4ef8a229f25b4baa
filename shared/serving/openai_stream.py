"""Requests of the OpenAI API to a target on Triton: the engine's own bytes, and a record of what it did for them."""

import contextlib
import json
import struct
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

from shared.errors import Transient
from shared.serving.engine_streams import stream_shared
from shared.serving.inference import Deadlines, stream_responses
from shared.serving.tensors import build_request, raw_outputs, read_json


@dataclass(frozen=True)
class ApiRequest:
    """A request for a target.

    Attributes:
        method, path: as in HTTP; the path without a query.
        body: the JSON body, undecoded.
        deadline_s: seconds that the whole answer may take.
        request_id: for the logs of Triton and of the engine.
        model: the name that the answer has for the model; None for the engine's own.
        cache_salt: only requests with the same one share cached prefixes; None for all without one.
    """

    method: str
    path: str
    body: bytes
    deadline_s: float
    request_id: str = ""
    model: str | None = None
    cache_salt: str | None = None


@dataclass(frozen=True)
class ApiPiece:
    """A part of an answer.

    Attributes:
        body: bytes of the body; empty if the part reports progress only.
        record: what the engine did for the request since the last part: see the backend's `openai_record`.
        status, headers: with the first part that has bytes; `status` is None in all others.
    """

    body: bytes
    record: Mapping[str, Any]
    status: int | None = None
    headers: tuple[tuple[str, str], ...] = ()


async def stream_api(
    channel: Any,
    triton_name: str,
    request: ApiRequest,
    *,
    deadlines: Deadlines | None = None,
    on_one_stream: bool = False,
) -> AsyncGenerator[ApiPiece, None]:
    """Stream the answer to a request; leaving the iteration early (`aclose`) aborts it in the engine.

    Args:
        channel: from `Channels.get`.
        triton_name: `<model>.v<n>.<variant>`.
        request: what to ask.
        deadlines: time limits of the engine's silence.
        on_one_stream: send it on the gRPC stream that all such requests to the target share, not on one of its own.

    Raises:
        Transient: `endpoint_unreachable`, `engine_dead`, `engine_failed` or `no_first_token`. A deadline that has
            passed is an answer: status 504, or one that ends early with an error in its record.
    """
    message = build_message(triton_name, request)
    stream = stream_shared if on_one_stream else stream_responses
    has_started = False
    async with contextlib.aclosing(stream(channel, message, deadlines or Deadlines(), _has_tokens)) as responses:
        async for response in responses:
            raw = raw_outputs(response)
            if "http_body" not in raw:
                continue
            piece = read_piece(raw)
            has_started = has_started or piece.status is not None
            yield piece
    if not has_started:
        raise Transient("engine_dead", f"The stream of {triton_name} ended without an answer.")


def _has_tokens(response: Any) -> bool:
    """Return whether a response reports generated tokens: a stream of `/v1/responses` begins before its first one."""
    record = read_json(raw_outputs(response).get("http_record", b""))
    tokens = record.get("output_tokens") if isinstance(record, dict) else None
    return isinstance(tokens, int) and tokens > 0


def build_message(triton_name: str, request: ApiRequest) -> Any:
    """Return a request as a ModelInferRequest; a stream that is shared gives it another id."""
    head = {
        "method": request.method,
        "path": request.path,
        "request_id": request.request_id,
        "deadline_s": request.deadline_s,
        "model": request.model,
        "cache_salt": request.cache_salt,
    }
    message = build_request(triton_name, {"http_request": json.dumps(head)}, (), request.request_id)
    message.inputs.add(name="http_body", datatype="BYTES", shape=[1])
    message.raw_input_contents.append(struct.pack("<I", len(request.body)) + request.body)
    return message


def read_piece(raw: Mapping[str, bytes]) -> ApiPiece:
    """Return the part of an answer that the tensors of a response hold."""
    head = read_json(raw.get("http_head", b"")) or {}
    record = read_json(raw.get("http_record", b"")) or {}
    headers = tuple((str(name), str(value)) for name, value in head.get("headers", ()))
    return ApiPiece(_decode_bytes(raw["http_body"]), record, head.get("status"), headers)


def _decode_bytes(raw: bytes) -> bytes:
    """Return the first element of a tensor of bytes; empty if there is none."""
    if len(raw) < 4:
        return b""
    (length,) = struct.unpack_from("<I", raw)
    return raw[4 : 4 + length]
