"""Attribution of failed requests to the target, the caller, the gateway, or the infrastructure.

Only failures of the target are evidence against it. The table has all codes that the gateway answers with or records;
unknown codes are no evidence.
"""

from collections.abc import Mapping
from typing import Literal, cast, get_args

from contracts.facts import Inference
from contracts.vocabulary import Party

ErrorKind = Literal[
    "engine_dead",
    "engine_failed",
    "no_first_token",
    "not_loaded",
    "template_failed",
    "bad_request",
    "invalid_json",
    "invalid_value",
    "below_minimum_value",
    "above_maximum_value",
    "unsupported_parameter",
    "unknown_parameter",
    "context_length_exceeded",
    "no_chat_template",
    "template_refused",
    "body_refused",
    "request_too_large",
    "request_too_slow",
    "model_not_found",
    "cancelled",
    "slow_reader",
    "invalid_api_key",
    "key_revoked",
    "key_expired",
    "environment_not_allowed",
    "rate_limit_exceeded",
    "insufficient_quota",
    "internal_error",
    "keys_unknown",
    "template_busy",
    "too_many_requests",
    "no_serving_target",
    "endpoint_unreachable",
    "deadline_exceeded",
]

ATTRIBUTION: Mapping[ErrorKind, Party] = {
    # The engine of this target failed. If a request's content might be the cause (`PROVABLE`), the gateway first asks
    # the target something harmless, and the fallback the same request; the record's `caused_by` has the result:
    # `infrastructure` if the target was silent for one caller and answered others.
    "engine_dead": "target",
    "engine_failed": "target",
    "no_first_token": "target",
    "template_failed": "target",
    # Its servers answer, but none had loaded this target for ten seconds.
    "not_loaded": "target",
    # The request, or its transmission.
    "bad_request": "caller",
    "invalid_json": "caller",
    "invalid_value": "caller",
    "below_minimum_value": "caller",
    "above_maximum_value": "caller",
    "unsupported_parameter": "caller",
    "unknown_parameter": "caller",
    "context_length_exceeded": "caller",
    "no_chat_template": "caller",
    "template_refused": "caller",
    "body_refused": "caller",
    "request_too_large": "caller",
    "request_too_slow": "caller",
    "model_not_found": "caller",
    "cancelled": "caller",
    "slow_reader": "caller",
    "invalid_api_key": "caller",
    "key_revoked": "caller",
    "key_expired": "caller",
    "environment_not_allowed": "caller",
    "rate_limit_exceeded": "caller",
    "insufficient_quota": "caller",
    # This gateway: a defect or overload.
    "internal_error": "gateway",
    "keys_unknown": "gateway",
    "template_busy": "gateway",
    "too_many_requests": "gateway",
    # Machines and network, the same for all versions there.
    "no_serving_target": "infrastructure",
    "endpoint_unreachable": "infrastructure",
    # The answer took too long, though the target was never silent: long answers, or load.
    "deadline_exceeded": "infrastructure",
}

PROVABLE: frozenset[ErrorKind] = frozenset({"engine_failed", "bad_request", "template_failed", "template_refused"})
"""Kinds that a request's content might cause; attributed to the target only after a check."""

COMPARED: frozenset[ErrorKind] = frozenset({"engine_failed", "template_failed"})
"""Kinds attributed to the target only if the fallback answers the same request."""

assert set(ATTRIBUTION) == set(get_args(ErrorKind)), "every kind has its party"  # noqa: S101 - checked on import


def as_error_kind(code: str) -> ErrorKind:
    """Return a code as a kind of error; `internal_error` for unknown codes."""
    return cast("ErrorKind", code) if code in ATTRIBUTION else "internal_error"


def attribute(error: str | None, caused_by: Party | None = None) -> Party | None:
    """Return the party that caused an error; None without an error, or for an unknown kind.

    The target is returned only if the table has it and the record names no other party; never for unknown kinds.
    """
    listed = ATTRIBUTION.get(cast("ErrorKind", error)) if error is not None else None
    if listed == "target":
        return caused_by or listed
    return listed or (caused_by if caused_by != "target" else None)


def is_failure(record: Inference) -> bool:
    """Return whether the target caused the failure of a request that is evidence."""
    return record.error is not None and record.is_evidence and attribute(record.error, record.caused_by) == "target"


def is_excused(record: Inference) -> bool:
    """Return whether another party than the target determined how a request ended, so that it is no evidence."""
    excused = record.error is not None or record.caused_by is not None or not record.is_evidence
    return excused and not is_failure(record)
