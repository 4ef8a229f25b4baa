"""Scores of tool calls."""

import re
from collections.abc import Mapping
from typing import Any, Final, Literal

from decisions.scorers.answers import RIGHT, Answer, Score, unparsed, wrong
from decisions.scorers.json_answers import NotJsonError, includes_json, parse_json, same_json

Arguments = Literal["equal", "include", "any"]
_CALL_AS_TEXT: Final = re.compile(
    r"<(?:\|?tool_call|function_call|function=)|\[TOOL_CALLS\]|<\|python_tag\|>"
    r"|\"(?:name|function|tool)\"\s*:\s*\"[^\"]*\"\s*,\s*\"(?:arguments|parameters)\"\s*:",
    re.IGNORECASE,
)


def check_expected(expected: Any) -> tuple[Mapping[str, Any], ...]:
    """Return the expected calls of a row in order.

    Raises:
        ValueError: The expectation has another form; the message has the right one.
    """
    calls = expected if isinstance(expected, list) else [] if expected is None else [expected]
    for call in calls:
        is_call = isinstance(call, Mapping) and isinstance(call.get("name"), str)
        if not is_call or not isinstance(call.get("arguments", {}), Mapping):
            raise ValueError('a call is {"name": …, "arguments": {…}}; null expects no call')
    return tuple(calls)


def score_calls(answer: Answer, expected: Any, arguments: Arguments) -> Score:
    """Return the score of an answer's tool calls; unparsed if `parse_calls` fails."""
    wanted = check_expected(expected)
    try:
        values = parse_calls(answer)
    except NotJsonError as error:
        return unparsed(str(error))
    names, wanted_names = [call.name for call in answer.calls], [call["name"] for call in wanted]
    if names != wanted_names:
        return wrong(f"it has {len(names)} calls, and they are not the {len(wanted_names)} that are expected")
    if arguments != "any":
        same = same_json if arguments == "equal" else includes_json
        if not all(same(value, call.get("arguments", {})) for value, call in zip(values, wanted, strict=True)):
            return wrong("the arguments of a call are not those expected")
    return RIGHT


def parse_calls(answer: Answer) -> list[Mapping[str, Any]]:
    """Return the arguments of each tool call of an answer in order.

    Raises:
        NotJsonError: Arguments are not a JSON object, or the text holds a call that the engine did not recognise.
    """
    if not answer.calls and _CALL_AS_TEXT.search(answer.text):
        raise NotJsonError("a tool call stands in the text; the engine did not recognise it as one")
    try:
        values = [parse_json(call.arguments or "{}") for call in answer.calls]
    except NotJsonError as error:
        raise NotJsonError(f"arguments of a call: {error}") from error
    if not all(isinstance(value, Mapping) for value in values):
        raise NotJsonError("arguments of a call: they are no object")
    return values
