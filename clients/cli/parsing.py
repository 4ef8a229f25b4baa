"""Parsing of arguments: model names, durations, times, faults."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import ValidationError

from clients.cli.output import CommandError, Exit
from contracts.facts import DrillFault
from contracts.vocabulary import MODEL_NAME_PATTERN, MODEL_NAME_RULE
from decisions.policies.refused_values import describe_refusal
from decisions.rollback.drills import FLAGS

DURATION = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>[smhd])")
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
LONGEST_S = 36_500 * 86_400.0
"""A hundred years, within the range of datetime."""
FAULTS = (
    "delay_ms=800, error_ratio=0.5, garble, answer=empty, answer=refusal, answer=cut, token_delay_ms=50, "
    "queue_delay_ms=800, output_tokens=0, logprob_shift=-2 or nan_logits"
)


def check_model(text: str) -> str:
    """Return a model name that is well formed.

    Raises:
        CommandError: it is not.
    """
    if not re.fullmatch(MODEL_NAME_PATTERN, text) or text.endswith("\n"):
        raise CommandError(f"the model name {text!r} is not valid: {MODEL_NAME_RULE}", Exit.USAGE)
    return text


def describe_problems(error: ValidationError, whole: str = "value") -> str:
    """Return the problems of a validation, each with its field; `whole` names a problem without a field."""
    problems = (
        f"{'.'.join(map(str, problem['loc'])) or whole}: {describe_refusal(problem)}" for problem in error.errors()
    )
    return "; ".join(problems)


def parse_duration(text: str) -> timedelta:
    """Return the duration of `30s`, `5m`, `1h` or `7d`.

    Raises:
        CommandError: The text has another form, or the duration is zero.
    """
    match = DURATION.fullmatch(text)
    seconds = float(match["number"]) * UNITS[match["unit"]] if match is not None else 0.0
    duration = timedelta(seconds=min(seconds, LONGEST_S))
    if duration <= timedelta():
        raise CommandError(f"the duration {text!r} is not valid: write 30s, 5m, 1h or 7d", Exit.USAGE)
    return duration


def parse_moment(text: str, now: datetime) -> datetime:
    """Return the time of `2h` (ago), `2026-11-27` or `2026-11-27T05:30`; UTC without a time zone.

    Raises:
        CommandError: The text has another form.
    """
    if DURATION.fullmatch(text):
        return now - min(parse_duration(text), now - datetime(1, 1, 1, tzinfo=UTC))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        message = f"the time {text!r} is not valid: write 30m, 2h or 7d (ago), or 2026-11-27T05:30"
        raise CommandError(message, Exit.USAGE) from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def parse_fault(items: Sequence[str]) -> DrillFault:
    """Return the faults of a drill.

    Raises:
        CommandError: a fault is unknown or given twice, or together they would change no request.
    """
    values: dict[str, Any] = {}
    for item in items:
        name, separator, value = item.partition("=")
        if name not in DrillFault.model_fields or (name in FLAGS) == bool(separator):
            raise CommandError(f"the fault {item!r} is not valid: write {FAULTS}", Exit.USAGE)
        if name in values:
            raise CommandError(f"the fault {name!r} is given twice: give it once", Exit.USAGE)
        values[name] = value if separator else True
    try:
        fault = DrillFault.model_validate(values)
    except ValidationError as error:
        given, problems = " ".join(items), describe_problems(error)
        raise CommandError(f"the fault {given!r} is not valid: {problems}; write {FAULTS}", Exit.USAGE) from error
    if fault.does_nothing:
        raise CommandError(f"the fault {' '.join(items)!r} would change no request: write {FAULTS}", Exit.USAGE)
    return fault
