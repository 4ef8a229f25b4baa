"""Real English text that every Python brings along: the language reference of `pydoc_data`.

The topics are split once, by their place in the alphabet, so that nothing held out is ever trained or calibrated
on: of each seven topics, one is for evaluation, one for calibration and five are for training.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, Literal

Split = Literal["training", "calibration", "evaluation"]
PASSAGE_CHARS = 1800  # about 450 tokens
FRAGMENT_CHARS = 60  # shorter than this is no answer
ANSWER_CHARS = 420  # an answer that fits 128 tokens together with its question


Turn = dict[str, Any]


@dataclass(frozen=True)
class Lesson:
    """A conversation to train on, whose last turn is the assistant's, and the tools that it may call."""

    turns: tuple[Turn, ...]
    tools: tuple[dict[str, Any], ...] = ()


def split_of(position: int) -> Split:
    """Return which split the topic at this place of the alphabet belongs to."""
    if position % 7 == 0:
        return "evaluation"
    return "calibration" if position % 7 == 1 else "training"


def topics_of(split: Split) -> list[tuple[str, str]]:
    """List the (name, text) of the topics of one split, in alphabetical order."""
    return [(name, topics[name]) for place, name in enumerate(sorted(topics)) if split_of(place) == split]


def paragraphs(text: str) -> list[str]:
    """Cut the prose out of a topic: grammar, code and headings are left out."""
    blocks = re.split(r"\n\s*\n", text)
    prose = [block for block in blocks if block[:1].isalpha() and not re.search(r"::=|\*\*\*\*|====", block)]
    return [" ".join(block.split()) for block in prose]


def passages(split: Split) -> list[str]:
    """Join the prose of a split to passages of at most `PASSAGE_CHARS` characters."""
    collected: list[str] = []
    for _, text in topics_of(split):
        passage = ""
        for paragraph in paragraphs(text):
            if passage and len(passage) + len(paragraph) > PASSAGE_CHARS:
                collected.append(passage)
                passage = ""
            passage = f"{passage} {paragraph}".strip()[:PASSAGE_CHARS]
        if len(passage) > PASSAGE_CHARS // 3:
            collected.append(passage)
    return collected


def lessons() -> list[Lesson]:
    """Return questions about Python and what the language reference answers, from the training topics."""
    made: list[Lesson] = []
    for name, text in topics_of("training"):
        subject = name.replace("-", " ")
        for place, paragraph in enumerate(paragraphs(text)):
            if len(paragraph) < FRAGMENT_CHARS or paragraph.endswith(":"):
                continue
            question = f"What does the Python reference say about {subject}?"
            if place:
                question = f"Tell me more about {subject} in Python."
            answer = whole_sentences(paragraph, ANSWER_CHARS)
            made.append(Lesson(({"role": "user", "content": question}, {"role": "assistant", "content": answer})))
    return made


def whole_sentences(text: str, limit: int) -> str:
    """Shorten a text to whole sentences within `limit` characters, where that leaves anything."""
    if len(text) <= limit:
        return text
    end = text.rfind(". ", 0, limit)
    return text[: end + 1] if end > 0 else text[:limit]


def questions(split: Split) -> list[str]:
    """Ask about each topic of a split, as a user of the model would."""
    asked = ("What does the Python reference say about {}?", "Tell me more about {} in Python.", "Explain {} briefly.")
    return [text.format(name.replace("-", " ")) for text in asked for name, _ in topics_of(split)]


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write a data set as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
