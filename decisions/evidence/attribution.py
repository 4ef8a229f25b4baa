"""Attribution of a failed request: to the target, the caller, the gateway, or the infrastructure between.

Only what the target did is evidence against it; what a caller can cause is never evidence. The table is total: every
code that the gateway answers with or records has its entry, and any other code is no evidence.
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
    # The engine of this target failed. Where a request alone might have caused it (`PROVABLE`), the gateway first asks
    # the same target something harmless, and the fallback the same, and the record's own `caused_by` says what came of
    # it: `infrastructure` where the target was silent for one caller and answered others meanwhile.
    "engine_dead": "target",
    "engine_failed": "target",
    "no_first_token": "target",
    "template_failed": "target",
    # Its servers answer, and for ten seconds none had loaded this target: they serve others.
    "not_loaded": "target",
    # The request, or the way in which it was sent.
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
    # This gateway: a defect, or more at once than it takes.
    "internal_error": "gateway",
    "keys_unknown": "gateway",
    "template_busy": "gateway",
    "too_many_requests": "gateway",
    # Machines, network, and what operates them: the same for every version there.
    "no_serving_target": "infrastructure",
    "endpoint_unreachable": "infrastructure",
    # The whole answer took too long, though the target was never silent: long answers are asked for, or many at once.
    "deadline_exceeded": "infrastructure",
}

PROVABLE: frozenset[ErrorKind] = frozenset({"engine_failed", "bad_request", "template_failed", "template_refused"})
"""What one request's content might cause: the target's only if it fails something harmless, or fails it alone."""

COMPARED: frozenset[ErrorKind] = frozenset({"engine_failed", "template_failed"})
"""What is the target's only after a comparison for this very request: the target fails what the fallback answers."""

assert set(ATTRIBUTION) == set(get_args(ErrorKind)), "every kind has its party"  # noqa: S101 - checked on import


def as_error_kind(code: str) -> ErrorKind:
    """Return a code as a kind of error; `internal_error` (the gateway's) for an unknown code."""
    return cast("ErrorKind", code) if code in ATTRIBUTION else "internal_error"


def attribute(error: str | None, caused_by: Party | None = None) -> Party | None:
    """Return which party caused an error; None if there was none, or if nothing is known about its kind.

    The target only if the table names it and the record names no other. A kind that the table does not know is never
    the target's, whatever the record names.
    """
    listed = ATTRIBUTION.get(cast("ErrorKind", error)) if error is not None else None
    if listed == "target":
        return caused_by or listed
    return listed or (caused_by if caused_by != "target" else None)


def is_failure(record: Inference) -> bool:
    """Return whether a request failed through the target: the only failures that are evidence against it."""
    return record.error is not None and record.is_evidence and attribute(record.error, record.caused_by) == "target"


def is_excused(record: Inference) -> bool:
    """Return whether a request ended as it did through something else than the target, so that it is no evidence."""
    excused = record.error is not None or record.caused_by is not None or not record.is_evidence
    return excused and not is_failure(record)
