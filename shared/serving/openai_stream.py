"""Requests of the OpenAI API to a target on Triton, and the parts of their answers, as tensors.

The engine's own bytes come back, with a record of what it did for them. The tensors are documented in the backends'
`engine_tensors`.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

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
        cache_salt: only requests with the same salt share cached prefixes; None for all without one.
        traceparent: the span that a server's own spans belong below, in W3C's form; None without a trace.
        holder: a pseudonym of the caller, whose large bodies take turns with other callers'.
        fingerprint: the answers' `system_fingerprint`, if the server cannot set it; empty: the server's.
    """

    method: str
    path: str
    body: bytes
    deadline_s: float
    request_id: str = ""
    model: str | None = None
    cache_salt: str | None = None
    traceparent: str | None = None
    holder: str = ""
    fingerprint: str = ""


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


class FramedPiece(NamedTuple):
    """A part of an answer on a gRPC stream.

    Attributes:
        request_id: the Triton request id.
        number: the parts of that answer before this one; None if they come in order.
        piece: the part.
        is_last: no other follows.
        error: what failed, in place of a part; empty if nothing did.
    """

    request_id: str
    number: int | None
    piece: ApiPiece
    is_last: bool
    error: str = ""


def build_message(triton_name: str, request: ApiRequest, triton_id: str, stream: str | None) -> Any:
    """Return a request as a ModelInferRequest.

    Args:
        triton_name: `<model>.v<n>.<variant>`.
        request: what to ask.
        triton_id: the Triton request id: an abort and the parts of the answer name it.
        stream: the same for all requests of a gRPC stream, so that their parts come in frames; None for a response
            for each part.
    """
    head = {
        "method": request.method,
        "path": request.path,
        "request_id": request.request_id,
        "deadline_s": request.deadline_s,
        "model": request.model,
        "cache_salt": request.cache_salt,
        "stream": stream,
        "holder": request.holder,
    }
    message = build_request(triton_name, {"http_request": json.dumps(head)}, (), triton_id, empty_final=False)
    message.inputs.add(name="http_body", datatype="BYTES", shape=[1])
    message.raw_input_contents.append(struct.pack("<I", len(request.body)) + request.body)
    return message


def build_abort(triton_name: str, triton_id: str) -> Any:
    """Return the ModelInferRequest that aborts a request; nothing comes back for it."""
    order = {"http_request": json.dumps({"abort": triton_id})}
    return build_request(triton_name, order, (), f"{triton_id}-abort", empty_final=False)


def read_pieces(response: Any) -> list[FramedPiece]:
    """Return the parts of answers in a ModelInferResponse: all of a frame, or a single one.

    Raises:
        ValueError: the response is not a valid one; none of its parts can be trusted.
    """
    raw = raw_outputs(response)
    if "http_body" not in raw:
        return []
    record = read_json(raw.get("http_record", b""))
    if isinstance(record, list):
        return [_read_row(row, body) for row, body in zip(record, _split_bytes(raw["http_body"]), strict=True)]
    body = next(_split_bytes(raw["http_body"]), b"")
    piece = _make_piece(body, record, read_json(raw.get("http_head", b"")) or {})
    return [FramedPiece(response.id, None, piece, response.parameters["triton_final_response"].bool_param)]


def _read_row(row: Any, body: bytes) -> FramedPiece:
    number = row.get("number") if isinstance(row, dict) else None
    if type(number) is not int:
        message = f"a frame has a part without a number: {str(row)[:80]}"
        raise ValueError(message)
    piece = _make_piece(body, row.get("record", {}), row)
    return FramedPiece(str(row.get("id")), number, piece, row.get("last") is True, str(row.get("error", "")))


def _make_piece(body: bytes, record: Any, head: Any) -> ApiPiece:
    """Return a part with the status and the headers that an object has, if any.

    Raises:
        ValueError: the record is no object, or what the object has is no status and headers.
    """
    if type(record) is not dict:
        message = f"the record of a part is no object: {str(record)[:80]}"
        raise ValueError(message)
    status = head.get("status") if isinstance(head, dict) else head
    if status is None:
        return ApiPiece(body, record)
    if type(status) is not int or not isinstance(head, dict):
        message = f"the status of an answer is no number: {str(head)[:80]}"
        raise ValueError(message)
    try:
        headers = tuple((str(name), str(text)) for name, text in head.get("headers", ()))
    except TypeError as error:
        message = f"the headers of an answer are no list of pairs: {str(head)[:80]}"
        raise ValueError(message) from error
    return ApiPiece(body, record, status, headers)


def _split_bytes(raw: bytes) -> Iterator[bytes]:
    """Yield the elements of a tensor of bytes, each after its length.

    Raises:
        ValueError: the lengths do not fit the tensor.
    """
    at, end = 0, len(raw)
    while at < end:
        start = at + 4
        at = start + struct.unpack_from("<I", raw, at)[0] if start <= end else end + 1
        if at > end:
            message = f"a tensor of {end} bytes ends within an element"
            raise ValueError(message)
        yield raw[start:at]
