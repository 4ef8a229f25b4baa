"""Scores of answers by the scorers that policies use."""

import json
import re

from benchmarks.quality.tasks import Row
from contracts.evaluations import Contains, Equals, InLanguage, Refuses, Scorer, ToolCalls
from decisions.scorers.answers import Answer, Call
from decisions.scorers.scoring import Asked, score_answer
from shared.serving.languages import recognise

SCORERS: tuple[Scorer, ...] = (Equals(compare="json"), ToolCalls(), InLanguage(), Contains(), Refuses())
_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
HALF = 0.5


def score(row: Row, text: str, *, ended: bool) -> str:
    """Return 1 for a right answer, 0 for a wrong one or one that does not end by itself, x where none can be parsed."""
    values: list[float | None] = []
    answer = read_answer(text) if row.tools else Answer(text, is_cut=not ended)
    for scorer in SCORERS:
        if scorer.label in row.expect:
            asked = Asked(row.expect[scorer.label], row.messages[-1]["content"])
            values.append(score_answer(scorer, asked, answer, recognise).value)
    if not ended or any(value is not None and value < HALF for value in values):
        return "0"
    return "x" if None in values else "1"


def read_answer(text: str) -> Answer:
    """Return an answer with its calls, as the engine's parser `hermes` reads them."""
    calls = []
    for found in _CALL.findall(text):
        try:
            call = json.loads(found)
            calls.append(Call(call["name"], json.dumps(call["arguments"])))
        except (ValueError, KeyError, TypeError):
            return Answer(text)
    return Answer(_CALL.sub("", text).strip(), tuple(calls))
