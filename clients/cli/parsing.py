"""What people type: targets, versions, spans of time, faults."""

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from pydantic import ValidationError

from clients.cli.output import Exit, Refused
from contracts.facts import DrillFault
from contracts.vocabulary import MODEL_NAME_PATTERN, Target

TARGET = re.compile(
    r"(?P<model>[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)\.v(?P<version>\d+)\.(?P<variant>bf16|int8|gptq-int4|awq-int4)"
)
SPAN = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>[smhd])")
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
LONGEST_S = 36_500 * 86_400.0
"""A hundred years: longer than any log, and calendars still reach so far."""
FAULTS = "delay_ms=800, error_ratio=0.5, garble, answer=empty or answer=refusal"


def check_model(text: str) -> str:
    """Check that a word can be the name of a model.

    Raises:
        Refused: it cannot.
    """
    if not re.match(MODEL_NAME_PATTERN, text):
        raise Refused(f"{text!r} is no model name; see `slipway routes`", Exit.USAGE)
    return text


def parse_target(text: str) -> Target:
    """Read `MODEL.vN.variant`.

    Raises:
        Refused: it is none.
    """
    found = TARGET.fullmatch(text)
    if found is None:
        raise Refused(f"{text!r} is no target; write MODEL.vN.variant, for example support-bot.v2.int8", Exit.USAGE)
    return Target.model_validate({**found.groupdict(), "version": int(found["version"])})


def target_of(model: str, text: str) -> Target:
    """Read a target that must be one of this model.

    Raises:
        Refused: it is none, or another model's.
    """
    target = parse_target(text)
    if target.model != model:
        raise Refused(f"{target} is no target of {model}", Exit.USAGE)
    return target


def parse_number(text: str) -> int:
    """Read a version number: `2` or `v2`.

    Raises:
        Refused: it is none.
    """
    found = re.fullmatch(r"v?(\d+)", text)
    if found is None:
        raise Refused(f"{text!r} is no version; write its number, for example 2", Exit.USAGE)
    return int(found[1])


def parse_span(text: str) -> timedelta:
    """Read a span of time: `30s`, `5m`, `1h`, `7d`.

    Raises:
        Refused: it is none, or nothing.
    """
    found = SPAN.fullmatch(text)
    seconds = float(found["number"]) * UNITS[found["unit"]] if found is not None else 0.0
    span = timedelta(seconds=min(seconds, LONGEST_S))
    if span <= timedelta():
        raise Refused(f"{text!r} is no span of time; write 30s, 5m, 1h or 7d", Exit.USAGE)
    return span


def parse_fault(items: Sequence[str]) -> DrillFault:
    """Read the faults of a drill.

    Raises:
        Refused: an unknown one, one given twice, or nothing that would change a request.
    """
    found: dict[str, Any] = {}
    for item in items:
        name, separator, value = item.partition("=")
        if name not in DrillFault.model_fields or (name == "garble") == bool(separator):
            raise Refused(f"{item!r} is no fault; say {FAULTS}", Exit.USAGE)
        if name in found:
            raise Refused(f"the fault {name} was given twice", Exit.USAGE)
        found[name] = value if separator else True
    try:
        fault = DrillFault.model_validate(found)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise Refused(f"the fault is not valid: {problems}; say {FAULTS}", Exit.USAGE) from error
    if fault.does_nothing:
        raise Refused(f"this fault would change no request; say {FAULTS}", Exit.USAGE)
    return fault


def describe_fault(fault: DrillFault) -> str:
    """Name a fault as it is typed."""
    told = {
        f"delay_ms={fault.delay_ms}": fault.delay_ms,
        f"error_ratio={fault.error_ratio:g}": fault.error_ratio,
        "garble": fault.garble,
        f"answer={fault.answer}": fault.answer,
    }
    return " ".join(name for name, on in told.items() if on) or "nothing"
