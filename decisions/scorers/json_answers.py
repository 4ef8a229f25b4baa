"""JSON in answers: strict parsing, comparison by value, and limited checks by JSON Schemas."""

import json
import re
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, Final

from jsonschema import Draft202012Validator, SchemaError, ValidationError
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from contracts.evaluations import compile_pattern

_FENCE: Final = re.compile(r"```(?:json|JSON)?[ \t]*\n(.*)\n?```", re.DOTALL)
_compiled: Final = lru_cache(maxsize=256)(compile_pattern)
REFERENCES: Final = 10_000
"""Maximum references that a check follows; schemas of alternatives with mutual references would take hours."""
_TOO_DEEP: Final = "the JSON Schema is nested too deeply; use fewer levels"
_steps: Final = ContextVar[Iterator[int]]("steps")


class NotJsonError(ValueError):
    """A text is not valid JSON."""


class TooCostlyError(ValueError):
    """A check followed too many references."""


def parse_json(text: str, *, fenced: bool = False) -> Any:
    """Return the value of a JSON text without NaN, infinity or repeated keys.

    Args:
        text: The text; white space at both ends is ignored.
        fenced: Whether a Markdown code block around it is permitted.

    Raises:
        NotJsonError: The text is not such JSON.
    """
    match = _FENCE.fullmatch(text.strip()) if fenced else None
    try:
        return json.loads(match[1] if match else text, parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise NotJsonError(f"it is no JSON: {reason}") from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("an object has a key twice")
    return value


def same_json(one: Any, other: Any) -> bool:
    """Return whether two JSON values are equal: 1 equals 1.0, not true."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same_json(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_json, one, other))
    return bool(one == other)


def includes_json(value: Any, part: Any) -> bool:
    """Return whether a value equals `part`, except for further keys of objects."""
    if isinstance(value, Mapping) and isinstance(part, Mapping):
        return all(key in value and includes_json(value[key], wanted) for key, wanted in part.items())
    return same_json(value, part)


def check_schema(schema: Mapping[str, Any]) -> None:
    """Check that a JSON Schema (draft 2020-12) is valid, and within limits.

    Raises:
        ValueError: The schema is unusable; the message includes advice.
    """
    try:
        Draft202012Validator.check_schema(_without_draft(schema))
    except SchemaError as error:
        raise ValueError(f"the JSON Schema is not valid: {error.message[:200]}") from error
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    check_limits(schema)


def check_limits(schema: Mapping[str, Any]) -> None:
    """Run the checks of `check_schema` without the validation, which takes 200 times as long.

    Raises:
        ValueError: As `check_schema`.
    """
    plain = _without_draft(schema)
    try:
        resolver = Registry().resolver_with_root(DRAFT202012.create_resource(plain))
        for part in _objects(plain):
            if isinstance(part.get("$schema"), str) or "patternProperties" in part:
                raise ValueError("the JSON Schema has a second $schema, or patternProperties; leave them out")
            if isinstance(part.get("pattern"), str):
                _compiled(part["pattern"])
            if isinstance(part.get("$ref"), str):
                resolver.lookup(part["$ref"])
    except Unresolvable as error:
        raise ValueError(f"the JSON Schema refers to {error.ref[:200]}; put that into its $defs") from error
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error


def find_violation(schema: Mapping[str, Any], value: Any) -> str | None:
    """Return the keyword of a checked schema that a value violates; None without a violation.

    Value and schema are not quoted, because texts of sets and answers can be erased.

    Raises:
        TooCostlyError: The references are too many or nested too deeply.
    """
    _steps.set(iter(range(REFERENCES)))
    try:
        error = next(_Limited(_without_draft(schema), registry=Registry()).iter_errors(value), None)
    except RecursionError as deep:
        raise TooCostlyError("the answer, or the references of the JSON Schema, are nested too deeply") from deep
    return None if error is None else f"it violates {error.validator} of the JSON Schema, {len(error.path)} levels deep"


def _follow(validator: Any, reference: str, instance: Any, _schema: Any) -> Iterator[ValidationError]:
    if next(_steps.get(), None) is None:
        raise TooCostlyError(f"the JSON Schema follows more than {REFERENCES:,} references in one answer")
    yield from validator._validate_reference(ref=reference, instance=instance)  # noqa: SLF001 - as its own keywords


def _match(_validator: Any, pattern: str, instance: Any, _schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not _compiled(pattern).isinstance_python(instance):
        yield ValidationError(f"{instance[:100]!r} does not match {pattern[:100]!r}")


_Limited: Final = extend(Draft202012Validator, {"pattern": _match, "$ref": _follow, "$dynamicRef": _follow})  # type: ignore[no-untyped-call]


def _without_draft(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema without `$schema`, which would select validators without limits."""
    return {key: value for key, value in schema.items() if key != "$schema"}


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        yield value
    for part in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from _objects(part)
