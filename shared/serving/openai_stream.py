"""Requests of the OpenAI API to a target on Triton, and the parts of their answers, as tensors.

`engine_tensors` of the backends documents the tensors.
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
        deadline_s: time limit of the whole answer, in seconds.
        request_id: for the logs of Triton and of the engine.
        model: model name in the answer; None for the engine's own.
        cache_salt: only requests with the same salt share cached prefixes.
        traceparent: W3C parent of the server's spans; None without a trace.
        holder: pseudonym of the caller, for turns among callers.
        fingerprint: `system_fingerprint` of answers from servers that cannot set it; empty for the server's.
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
        body: bytes of the body; empty in a progress report.
        record: the engine's work since the last part (`openai_record` of the backend).
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
        number: the number of earlier parts of that answer.
        piece: the part.
        is_last: whether the answer ends with this part.
        error: the failure in place of a part; empty without one.
    """

    request_id: str
    number: int
    piece: ApiPiece
    is_last: bool
    error: str = ""


def build_message(triton_name: str, request: ApiRequest, triton_id: str, stream: str) -> Any:
    """Return a request as a ModelInferRequest.

    Args:
        triton_name: `<model>.v<n>.<variant>`.
        request: the request.
        triton_id: the Triton request id: an abort and the parts of the answer name it.
        stream: id of the gRPC stream; answers of one stream share frames.
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
    message = build_request(triton_name, {"http_request": json.dumps(head)}, request_id=triton_id, empty_final=False)
    message.inputs.add(name="http_body", datatype="BYTES", shape=[1])
    message.raw_input_contents.append(struct.pack("<I", len(request.body)) + request.body)
    return message


def build_abort(triton_name: str, triton_id: str) -> Any:
    """Return the ModelInferRequest that aborts a request, without a reply."""
    order = {"http_request": json.dumps({"abort": triton_id})}
    return build_request(triton_name, order, request_id=f"{triton_id}-abort", empty_final=False)


def read_pieces(response: Any) -> list[FramedPiece]:
    """Return the parts of answers in a ModelInferResponse, which is a frame.

    Raises:
        ValueError: the frame is not valid; none of its parts can be trusted.
    """
    raw = raw_outputs(response)
    if "http_body" not in raw:
        return []
    rows = read_json(raw.get("http_record", b""))
    if not isinstance(rows, list):
        raise ValueError(f"a frame has no list of parts: {str(rows)[:80]}")  # noqa: TRY004 - it came from a server
    return [_read_row(row, body) for row, body in zip(rows, _split_bytes(raw["http_body"]), strict=True)]


def _read_row(row: Any, body: bytes) -> FramedPiece:
    number = row.get("number") if isinstance(row, dict) else None
    if type(number) is not int:
        raise ValueError(f"a frame has a part without a number: {str(row)[:80]}")
    piece = _make_piece(body, row)
    return FramedPiece(str(row.get("id")), number, piece, row.get("last") is True, str(row.get("error", "")))


def _make_piece(body: bytes, row: Mapping[str, Any]) -> ApiPiece:
    """Return a part with the record, status and headers of its row.

    Raises:
        ValueError: one of them has another type.
    """
    record, status = row.get("record", {}), row.get("status")
    if type(record) is not dict:
        raise ValueError(f"the record of a part is no object: {str(record)[:80]}")
    if status is None:
        return ApiPiece(body, record)
    if type(status) is not int:
        raise ValueError(f"the status of an answer is no number: {str(row)[:80]}")
    try:
        headers = tuple((str(name), str(text)) for name, text in row.get("headers", ()))
    except TypeError as error:
        raise ValueError(f"the headers of an answer are no list of pairs: {str(row)[:80]}") from error
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
            raise ValueError(f"a tensor of {end} bytes ends within an element")
        yield raw[start:at]
