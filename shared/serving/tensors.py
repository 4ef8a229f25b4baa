"""The tensors of our Triton backends (`engine_tensors` there): builds requests and reads the pieces of answers."""

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from shared.errors import Permanent


@dataclass(frozen=True)
class Delta:
    """A piece of an answer.

    Attributes:
        text: new text; empty while a character is incomplete, and in the last piece.
        finish_reason: `stop`, `length` … in the last piece, else None.
        input_tokens: tokens of the prompt.
        output_tokens: tokens generated since the previous piece.
        logprobs: log-probability of each of these tokens, in nats, if requested.
    """

    text: str
    finish_reason: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    logprobs: tuple[float, ...] = ()


def build_request(
    triton_name: str,
    texts: Mapping[str, str],
    flags: Iterable[str] = (),
    request_id: str = "",
    *,
    empty_final: bool = True,
) -> Any:
    """Return a ModelInferRequest with string tensors of one element, and flags that are set.

    With `empty_final`, Triton sends an empty final response unless an earlier one was marked final.
    """
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name=triton_name, id=request_id)
    if empty_final:
        request.parameters["triton_enable_empty_final_response"].bool_param = True
    for name, text in texts.items():
        request.inputs.add(name=name, datatype="BYTES", shape=[1])
        request.raw_input_contents.append(encode_text(text))
    for name in flags:
        request.inputs.add(name=name, datatype="BOOL", shape=[1])
        request.raw_input_contents.append(b"\x01")
    return request


def encode_text(text: str) -> bytes:
    """Return a string tensor of one element: length, then UTF-8.

    Raises:
        Permanent: `bad_request`: the text contains a lone surrogate, which UTF-8 cannot encode.
    """
    try:
        raw = text.encode()
    except UnicodeEncodeError as error:
        raise Permanent(
            "bad_request",
            f"The text contains a lone surrogate (U+{ord(text[error.start]):04X}), which is not a character.",
        ) from error
    return struct.pack("<I", len(raw)) + raw


def decode_text(raw: bytes) -> str:
    """Return the first element of a string tensor; empty if there is none."""
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
    """Return the piece in a ModelInferResponse; None if it only carries the final flag."""
    raw = raw_outputs(response)
    if "text_output" not in raw:
        return None
    return Delta(
        text=decode_text(raw["text_output"]),
        finish_reason=decode_text(raw.get("finish_reason", b"")) or None,
        input_tokens=_count(raw.get("num_input_tokens", b"")),
        output_tokens=_count(raw.get("num_output_tokens", b"")),
        logprobs=_read_logprobs(raw.get("logprobs", b"")),
    )


def _read_logprobs(raw: bytes) -> tuple[float, ...]:
    """Return the log-probability of each generated token; none of a tensor in another form."""
    try:
        return tuple(map(float, read_json(raw)))
    except (OverflowError, TypeError, ValueError):
        return ()


def read_json(raw: bytes) -> Any:
    """Return the JSON value in a string tensor of one element; None if it is not JSON."""
    try:
        return json.loads(decode_text(raw) or "null")
    except (ValueError, RecursionError):
        return None


def _count(raw: bytes) -> int:
    return int(struct.unpack_from("<I", raw)[0]) if len(raw) >= 4 else 0
