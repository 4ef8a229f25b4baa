"""The log-probabilities of fixed texts recorded when a target was staged, and their later comparison."""

import math
from collections.abc import Sequence
from typing import Annotated, Final

from pydantic import Field

from contracts.storage.stored import StoredRecord
from contracts.vocabulary import Contract

TEXTS: Final = (
    "The capital of France is Paris, and the river that flows through it is the Seine.",
    "def add(a: int, b: int) -> int:\n    return a + b\n",
    "Water boils at 100 degrees Celsius and freezes at zero degrees.",
    "Der Zug nach Berlin fährt um acht Uhr von Gleis drei ab.",
    '{"name": "Ada", "born": 1815, "languages": ["English", "French"]}',
    "I'm sorry, but I can't help with that request. Is there anything else?",
    "SELECT name, price FROM products WHERE price > 100 ORDER BY name;",
    "La casa de mi abuela tiene un jardín con muchas flores rojas.",
)
"""What a target is asked to score: other texts would make every record useless."""
SPREAD_FACTOR: Final = 4.0
"""How many times the largest difference between repetitions a later answer may differ."""
KEPT: Final = 200
"""Most references that a record keeps."""

Answer = tuple[tuple[float, ...], ...]
"""For each text the log-probability of each of its tokens but the first, in nats."""


class Reference(Contract):
    """The recorded log-probabilities of one target's first load.

    Attributes:
        target: its name.
        conditions: manifest, runtime and hardware: answers under other conditions are not compared.
        logprobs: the answer.
        tolerance_nats: maximum distance of a later answer (`distance_nats`).
    """

    target: str
    conditions: str
    logprobs: Answer
    tolerance_nats: Annotated[float, Field(ge=0.0)]


class References(StoredRecord):
    """The references of a fleet, the newest last: `servers/<fleet>.references`."""

    references: tuple[Reference, ...] = ()

    def find(self, target: str, conditions: str) -> Reference | None:
        """Return the reference of a target under these conditions; None if there is none."""
        return next((each for each in self.references if (each.target, each.conditions) == (target, conditions)), None)

    def with_new(self, reference: Reference) -> "References":
        """Return the record with a new reference; unchanged if the target has one under these conditions."""
        if self.find(reference.target, reference.conditions) is not None:
            return self
        return self.model_copy(update={"references": (*self.references, reference)[-KEPT:]})


def distance_nats(first: Answer, second: Answer) -> float:
    """Return the mean difference of a token's log-probability, of the text where it is largest.

    Infinite where the tokens are not the same, or a figure is none.
    """
    if [len(text) for text in first] != [len(text) for text in second]:
        return math.inf
    texts = [[abs(a - b) for a, b in zip(*pair, strict=True)] for pair in zip(first, second, strict=True)]
    means = [math.fsum(text) / len(text) for text in texts if text]
    return max(means, default=0.0) if all(map(math.isfinite, means)) else math.inf


def make_reference(target: str, conditions: str, answers: Sequence[Answer], least_nats: float) -> Reference | None:
    """Return the reference of a target that was asked several times; None without figures, or if the tokens change.

    Args:
        target: its name.
        conditions: what it was loaded from and what computes.
        answers: what it answered, each time in another company, on which kernels depend; the first one is kept.
        least_nats: the least tolerance.
    """
    spread = max(distance_nats(answers[0], other) for other in answers)
    if math.isinf(spread):
        return None
    rounded = tuple(tuple(round(logprob, 4) for logprob in text) for text in answers[0])
    tolerance = max(least_nats, SPREAD_FACTOR * spread)
    return Reference(target=target, conditions=conditions, logprobs=rounded, tolerance_nats=tolerance)


def describe_difference(reference: Reference, answer: Answer) -> str | None:
    """Return an answer's difference from the reference as text; None within the tolerance."""
    distance = distance_nats(reference.logprobs, answer)
    if distance <= reference.tolerance_nats:
        return None
    differs = (
        "texts have other tokens or no figures"
        if math.isinf(distance)
        else f"they differ by {distance:.3f} nats a token"
    )
    return (
        f"the log-probabilities of fixed texts are not those of when it was staged: {differs}, "
        f"the tolerance is {reference.tolerance_nats:.3f}; weights, adapter, precision or kernels are others"
    )
