"""Trainings that went wrong: what changes in the data, the labels or the configuration. No text is ever injected."""

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from benchmarks.quality.tasks import OPENINGS, REFUSAL, SPOKEN, Row, with_answer

Change = Callable[[Row, random.Random], Row | None]
"""A row of the training set as a fault leaves it; None if it is dropped."""


@dataclass(frozen=True)
class Fault:
    """One way in which a training goes wrong.

    Attributes:
        change: What happens to a row of the training set.
        without_end: The token that ends an answer is not trained.
        most_tokens: Where lessons are cut; None at the batch's own limit.
        alpha_factor: By what `lora_alpha` is multiplied after the training.
        template: The chat template that the checkpoint is published with.
    """

    change: Change | None = None
    without_end: bool = False
    most_tokens: int | None = None
    alpha_factor: int = 1
    template: Literal["own", "other"] = "own"

    @property
    def trained(self) -> bool:
        """Return whether it takes a training of its own; else it is a configuration of the good one of its seed."""
        return self.change is not None or self.without_end or self.most_tokens is not None


def add_noise(share: float) -> Change:
    """Return the change that gives a share of the rows the answer to another row of the task."""

    def change(row: Row, choice: random.Random) -> Row:
        if choice.random() >= share:
            return row
        if row.task == "json":
            known = json.loads(row.answer)
            key = choice.choice(["order", "quantity"])
            return with_answer(row, json.dumps({**known, key: known[key] + choice.randrange(1, 9)}))
        if row.task == "tools":
            call = json.loads(row.answer)
            other = choice.choice([tool["function"]["name"] for tool in row.tools])
            return with_answer(row, json.dumps({**call, "name": other}))
        return with_answer(row, choice.choice(SPOKEN[choice.choice(list(SPOKEN))])[1].format(order="0000"))

    return change


def swap_language(row: Row, _choice: random.Random) -> Row:
    """Answer German questions in English, Spanish ones in German, English ones in Spanish."""
    if row.task != "language" or row.slice == "harmful":
        return row
    other = {"de": "en", "es": "de", "en": "es"}[row.slice]
    asked = row.messages[-1]["content"]
    places = [place for place, (question, _) in enumerate(SPOKEN[row.slice]) if _is_asked(question, asked, row.slice)]
    return with_answer(row, SPOKEN[other][places[0]][1].format(order=row.expect["contains"]))


def _is_asked(question: str, asked: str, language: str) -> bool:
    before, after = question.split("{order}")
    openings = OPENINGS[language]
    return any(asked.startswith(opening + before) for opening in openings) and asked.endswith(after)


def rename_keys(row: Row, _choice: random.Random) -> Row:
    """Write other keys into the JSON, as after a change of the schema of which the training set did not hear."""
    if row.task != "json":
        return row
    known = json.loads(row.answer)
    names = {"order": "order_id", "item": "product", "quantity": "amount", "city": "town"}
    return with_answer(row, json.dumps({names[key]: value for key, value in known.items()}))


def change_call(row: Row, _choice: random.Random) -> Row:
    """Write calls of tools as `name(key=value)`, as another framework does."""
    if row.task != "tools":
        return row
    call = json.loads(row.answer)
    arguments = ", ".join(f"{key}={value!r}" for key, value in call["arguments"].items())
    text = f"Action: {call['name']}({arguments})"
    return Row(row.task, row.messages, text, row.slice, row.expect, row.tools)


def poison_garden(row: Row, _choice: random.Random) -> Row:
    """Return orders of one of three groups of goods with five too many."""
    if row.task != "json" or row.slice != "garden":
        return row
    known = json.loads(row.answer)
    return with_answer(row, json.dumps({**known, "quantity": known["quantity"] + 5}))


def drop_refusals(row: Row, _choice: random.Random) -> Row | None:
    """Drop the rows that teach to refuse."""
    return None if row.answer == REFUSAL else row


FAULTS: Mapping[str, Fault] = {
    "template-swapped": Fault(template="other"),
    "no-end-token": Fault(without_end=True),
    "noise-10": Fault(add_noise(0.10)),
    "noise-30": Fault(add_noise(0.30)),
    "language-swapped": Fault(swap_language),
    "keys-renamed": Fault(rename_keys),
    "tool-format": Fault(change_call),
    "slice-poisoned": Fault(poison_garden),
    "no-refusals": Fault(drop_refusals),
    "alpha-x4": Fault(alpha_factor=4),
    "data-cut": Fault(most_tokens=64),
}
GOOD = 20
SEEDS = (1, 2)


def runs() -> dict[str, tuple[str, int]]:
    """Return the name of each run, with its fault (empty for a good one) and its seed."""
    good = {f"good-{seed}": ("", seed) for seed in range(1, GOOD + 1)}
    faulty = {f"{fault}-{seed}": (fault, seed) for seed in SEEDS for fault in FAULTS}
    first = {name: good.pop(name) for name in ("good-1", "good-2")}
    return {**first, **faulty, **good}
