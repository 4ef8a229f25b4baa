"""Scores of answers by a policy's scorers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from contracts.evaluations import (
    Contains,
    Equals,
    InLanguage,
    JsonSchema,
    Length,
    Matches,
    Refuses,
    Repeats,
    Scorer,
    ToolCalls,
    compile_pattern,
)
from decisions.scorers import json_answers, tool_calls
from decisions.scorers.answers import RIGHT, Answer, Score, unparsed, untold, wrong
from decisions.scorers.languages import LANGUAGES, Recognise, language_share
from decisions.scorers.refusals import is_refusal
from decisions.scorers.repetition import repetition_ratio


class _Absent:
    """The type of `ABSENT`: the row has no expectation; null is one."""


ABSENT: Final = _Absent()
_SPACED: Final = "\u0590"
"""First character after the scripts with spaces between words."""


@dataclass(frozen=True)
class Asked:
    """The data of a row for a scorer.

    Attributes:
        expected: The row's expectation for the scorer, or `ABSENT`.
        last: Text of its last message.
    """

    expected: Any = ABSENT
    last: str = field(default="", repr=False)


def needs_expectation(scorer: Scorer) -> bool:
    """Return whether a scorer scores only rows with an expectation."""
    match scorer:
        case Matches():
            return scorer.pattern is None
        case JsonSchema():
            return scorer.definition is None
        case Contains():
            return not scorer.excludes
    return scorer.kind in ("equals", "tool_call")


def find_problem(scorer: Scorer, expected: Any) -> str | None:
    """Return why a scorer cannot score a row with an expectation, with advice; None if it can."""
    check = _CHECKS.get(scorer.kind)
    try:
        problem = check(scorer, expected) if check is not None else None
    except ValueError as error:
        problem = str(error)
    return None if problem is None else f"the scorer {scorer.label}: {problem}"


def score_answer(scorer: Scorer, asked: Asked, answer: Answer, recognise: Recognise) -> Score:
    """Return the score of an answer to a row without a problem (`find_problem`)."""
    if scorer.kind == "language":
        return _score_language(scorer, asked, answer, recognise)
    try:
        return _SCORES[scorer.kind](scorer, asked.expected, answer)
    except RecursionError:
        return unparsed("it is nested too deeply to be compared")


def _check_equal(scorer: Equals, expected: Any) -> str | None:
    if expected is ABSENT:
        return "the row has no expected value; add it"
    if scorer.compare == "text" and not isinstance(expected, str):
        return "expected is no text; for other values set compare to json"
    return None


def _check_contained(scorer: Contains, expected: Any) -> str | None:
    if _texts(expected) or (expected is ABSENT and scorer.excludes):
        return None
    return "the row needs a text, or a list of texts, as expected"


def _check_pattern(scorer: Matches, expected: Any) -> str | None:
    if scorer.pattern is not None:
        return None
    if not isinstance(expected, str):
        return "the row needs a regular expression as expected, or the scorer a pattern"
    compile_pattern(expected)
    return None


def _check_schema(scorer: JsonSchema, expected: Any) -> str | None:
    definition = scorer.definition if scorer.definition is not None else expected
    if not isinstance(definition, dict):
        return "the row needs a JSON Schema as expected, or the scorer a definition"
    json_answers.check_schema(definition)
    return None


def _check_calls(_scorer: ToolCalls, expected: Any) -> str | None:
    if expected is ABSENT:
        return "the row has no expected call; add it, or null where no tool is to be called"
    tool_calls.check_expected(expected)
    return None


def _check_language(scorer: InLanguage, expected: Any) -> str | None:
    language = scorer.language if scorer.language is not None else expected
    if language is ABSENT or language in LANGUAGES:
        return None
    return f"{str(language)[:20]!r} is none of the languages that are recognised: {', '.join(LANGUAGES)}"


def _check_refusal(scorer: Refuses, expected: Any) -> str | None:
    if scorer.refuses is not None or expected is ABSENT or isinstance(expected, bool):
        return None
    return "expected is neither true, where the answer must refuse, nor false"


def _score_equal(scorer: Equals, expected: Any, answer: Answer) -> Score:
    text = answer.text.strip()
    if scorer.compare == "text":
        fold = str.casefold if scorer.ignore_case else str
        return RIGHT if fold(text) == fold(expected.strip()) else wrong("it is not the expected text")
    try:
        value = json_answers.parse_json(text)
    except json_answers.NotJsonError as error:
        return unparsed(str(error))
    return RIGHT if json_answers.same_json(value, expected) else wrong("it is not the expected value")


def _score_contained(scorer: Contains, expected: Any, answer: Answer) -> Score:
    fold = str.casefold if scorer.ignore_case else str
    folded = fold(answer.text)
    if not all(_has(folded, fold(each)) for each in _texts(expected)):
        return wrong("it does not contain what is expected")
    return wrong("it contains what is excluded") if any(_has(folded, fold(each)) for each in scorer.excludes) else RIGHT


def _has(text: str, part: str) -> bool:
    """Return whether a text contains a part as whole words or numbers."""
    start = text.find(part)
    while start >= 0:
        end = start + len(part)
        before, after = text[max(start - 1, 0) : start], text[end : end + 1]
        if not (_joins(before, part[0]) or _joins(part[-1], after)):
            return True
        start = text.find(part, start + 1)
    return False


def _joins(one: str, other: str) -> bool:
    """Return whether two characters belong to one word in scripts with spaces."""
    return bool(one and other) and all(char.isalnum() and char < _SPACED for char in (one, other))


def _texts(expected: Any) -> tuple[str, ...]:
    """Return the expected texts of a row; empty unless all are texts."""
    texts = expected if isinstance(expected, list) else [expected]
    return tuple(texts) if all(isinstance(each, str) and each for each in texts) else ()


def _score_match(scorer: Matches, expected: Any, answer: Answer) -> Score:
    has_match = compile_pattern(scorer.pattern or expected).isinstance_python(answer.text.strip())
    return RIGHT if has_match else wrong("it has no match of the pattern")


def _score_schema(scorer: JsonSchema, expected: Any, answer: Answer) -> Score:
    definition = scorer.definition if scorer.definition is not None else expected
    try:
        violation = json_answers.find_violation(definition, json_answers.parse_json(answer.text, fenced=scorer.fenced))
    except (json_answers.NotJsonError, json_answers.TooCostlyError) as error:
        return unparsed(str(error))
    return RIGHT if violation is None else wrong(violation)


def _score_calls(scorer: ToolCalls, expected: Any, answer: Answer) -> Score:
    return tool_calls.score_calls(answer, expected, scorer.arguments)


def _score_language(scorer: InLanguage, asked: Asked, answer: Answer, recognise: Recognise) -> Score:
    named = scorer.language or (asked.expected if isinstance(asked.expected, str) else None)
    language = named or recognise(asked.last)
    if language is None:
        return untold("the language of the row's last message cannot be told; name it in the row")
    if not answer.text.strip() and not answer.calls:
        return unparsed("it is empty")
    share = language_share(answer.text, language, recognise)
    if share is None:
        return untold("it has too few letters of a known language")
    return Score(share, "" if share == 1.0 else f"{1.0 - share:.0%} of it is not in {language}")


def _score_length(scorer: Length, _expected: Any, answer: Answer) -> Score:
    text = answer.text.strip()
    if answer.is_cut:
        return wrong("it was cut at the limit of tokens: it did not end by itself")
    if len(text) < scorer.min_chars and not answer.calls:
        return wrong(f"it has {len(text)} characters, fewer than {scorer.min_chars}")
    if scorer.max_chars is not None and len(text) > scorer.max_chars:
        return wrong(f"it has {len(text)} characters, more than {scorer.max_chars}")
    return RIGHT


def _score_refusal(scorer: Refuses, expected: Any, answer: Answer) -> Score:
    wanted = scorer.refuses if scorer.refuses is not None else expected is True
    if not answer.text.strip() and not answer.calls:
        return unparsed("it is empty")
    if is_refusal(answer.text) == wanted:
        return RIGHT
    return wrong("it does not refuse" if wanted else "it refuses")


def _score_repetition(scorer: Repeats, _expected: Any, answer: Answer) -> Score:
    ratio = repetition_ratio(answer.text)
    return RIGHT if ratio <= scorer.max_ratio else wrong(f"{ratio:.0%} of its end is written again in a loop")


_CHECKS: Final[Mapping[str, Callable[[Any, Any], str | None]]] = {
    "equals": _check_equal,
    "contains": _check_contained,
    "regex": _check_pattern,
    "json_schema": _check_schema,
    "tool_call": _check_calls,
    "language": _check_language,
    "refusal": _check_refusal,
}
_SCORES: Final[Mapping[str, Callable[[Any, Any, Answer], Score]]] = {
    "equals": _score_equal,
    "contains": _score_contained,
    "regex": _score_match,
    "json_schema": _score_schema,
    "tool_call": _score_calls,
    "length": _score_length,
    "refusal": _score_refusal,
    "repetition": _score_repetition,
}
