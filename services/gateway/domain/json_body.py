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
    """Return a request's body as a JSON object in which every number is finite.

    Raises:
        RequestRejected: 400 for anything else, including what many JSON parsers accept: another encoding than UTF-8,
            NaN and infinity, duplicate keys, more than `MAX_DEPTH` levels, and too many values: such a body is not
            parsed at all. Lone surrogates and large integers are `decisions.openai.requests`'.
    """
    if excess := find_excess_values(raw):
        raise bad_request(excess, code="invalid_json")
    try:
        body = json.loads(
            raw.decode(),
            object_pairs_hook=_read_object,
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
    _check_depth(body)
    return body


def _read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        duplicate, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {duplicate[:SHOWN_CHARS]!r} is given twice")
    return values


def _read_number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:SHOWN_CHARS]} is too large")
    return value


def _reject_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _check_depth(body: Mapping[str, Any]) -> None:
    """Reject bodies that are nested too deep."""
    pending: list[tuple[Any, int]] = [(body, 1)]
    while pending:
        value, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise bad_request(f"The body is nested deeper than {MAX_DEPTH} levels.", code="invalid_json")
        members = value.values() if isinstance(value, dict) else value
        pending += [(member, depth + 1) for member in members if isinstance(member, dict | list)]
