"""Answers and scores."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from decisions.scorers.reasoning import without_reasoning


class Score(NamedTuple):
    """The result of a scorer for one answer.

    Attributes:
        value: From 0 (wrong) to 1 (right); None if the answer cannot be parsed.
        reason: Why the value is not 1; empty if it is.
        is_evidence: If False, the row is left out of the comparison.
    """

    value: float | None
    reason: str = ""
    is_evidence: bool = True


RIGHT: Final = Score(1.0)


def wrong(reason: str) -> Score:
    """Return the score 0 of an answer."""
    return Score(0.0, reason)


def unparsed(reason: str) -> Score:
    """Return the score of an answer that cannot be parsed."""
    return Score(None, reason)


def untold(reason: str) -> Score:
    """Return the score of an answer that is left out of the comparison."""
    return Score(None, reason, is_evidence=False)


class Call(NamedTuple):
    """A tool call; `arguments` is the JSON text that the model wrote."""

    name: str
    arguments: str


@dataclass(frozen=True)
class Answer:
    """An answer of a model through the OpenAI API.

    Attributes:
        text: Text without reasoning.
        calls: Tool calls in order.
        is_cut: Whether it ended at the token limit.
    """

    text: str
    calls: tuple[Call, ...] = ()
    is_cut: bool = False

    @classmethod
    def of_choice(cls, choice: Mapping[str, Any]) -> "Answer":
        """Return the answer of a choice of a chat completion.

        Raises:
            ValueError: The choice has no message.
        """
        message = choice.get("message")
        if not isinstance(message, Mapping):
            raise ValueError("the choice has no message")  # noqa: TRY004 - of an answer
        functions = [call.get("function") for call in message.get("tool_calls") or () if isinstance(call, Mapping)]
        calls = [
            Call(str(function.get("name", "")), str(function.get("arguments", "")))
            for function in functions
            if isinstance(function, Mapping)
        ]
        content = message.get("content")
        text = without_reasoning(content if isinstance(content, str) else "")
        return cls(text, tuple(calls), choice.get("finish_reason") == "length")
