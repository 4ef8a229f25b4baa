"""Parses request bodies strictly: UTF-8 JSON objects of limited size, without values that other parsers may change."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from decisions.openai.json_values import find_excess_values
from services.gateway.domain.errors import bad_request

MAX_DEPTH = 64
SHOWN_CHARS = 80


def parse_body(raw: bytes) -> dict[str, Any]:
    """Return a request's body as a JSON object in which every text is Unicode and every number finite.

    Raises:
        RequestRejected: 400 for anything else, including what many JSON parsers accept: another encoding than UTF-8,
            NaN and infinity, duplicate keys, integers of more than 64 bits, lone surrogates, more than `MAX_DEPTH`
            levels, and too many values: such a body is not parsed at all.
    """
    if excess := find_excess_values(raw):
        raise bad_request(excess, code="invalid_json")
    try:
        body = json.loads(
            raw.decode(),
            object_pairs_hook=_read_object,
            parse_int=_read_integer,
            parse_float=_read_number,
            parse_constant=_reject_constant,
        )
    except UnicodeDecodeError as error:
        raise bad_request(f"The body is not UTF-8 at byte {error.start}.", code="invalid_json") from error
    except RecursionError as error:
        raise bad_request(f"The body is nested deeper than {MAX_DEPTH} levels.", code="invalid_json") from error
    except ValueError as error:
        raise bad_request(f"The body is not JSON: {error}.", code="invalid_json") from error
    if not isinstance(body, dict):
        raise bad_request(f"The body is a JSON {type(body).__name__}, not an object.", code="invalid_json")
    _check_values(body)
    return body


def _read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        duplicate, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {quote(duplicate)} is given twice")
    return values


def _read_integer(text: str) -> int:
    value = int(text) if len(text) <= 20 else 2**63
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"the integer {text[:SHOWN_CHARS]} has more than 64 bits")
    return value


def _read_number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:SHOWN_CHARS]} is too large")
    return value


def _reject_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _check_values(body: Mapping[str, Any]) -> None:
    """Reject lone surrogates, which cannot be encoded as UTF-8, and bodies that are nested too deep."""
    pending: list[tuple[Any, int, str | None]] = [(body, 1, None)]
    while pending:
        value, depth, param = pending.pop()
        if isinstance(value, str):
            _check_text(value, param)
        elif isinstance(value, dict | list):
            if depth > MAX_DEPTH:
                raise bad_request(f"The body is nested deeper than {MAX_DEPTH} levels.", code="invalid_json")
            if isinstance(value, dict):
                for name, member in value.items():
                    _check_text(name, param)
                    pending.append((member, depth + 1, param or name))
            else:
                pending.extend((item, depth + 1, param) for item in value if isinstance(item, str | dict | list))


def _check_text(text: str, param: str | None) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        where = param or "A key of the body"
        message = (
            f"{shorten(where)} contains a lone surrogate (U+{ord(text[error.start]):04X}), which is not a character."
        )
        raise bad_request(message, param, "invalid_value") from error


def shorten(value: str) -> str:
    """Return a text that is at most `SHOWN_CHARS` long, for messages."""
    return value if len(value) <= SHOWN_CHARS else value[:SHOWN_CHARS] + "…"


def quote(value: Any) -> str:
    """Return the beginning of a caller's value, quoted, for messages."""
    return shorten(repr(value[: SHOWN_CHARS + 1] if isinstance(value, str) else value))
