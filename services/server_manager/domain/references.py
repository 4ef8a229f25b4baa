"""References: log-probabilities of fixed texts, recorded when a target was staged and compared at later loads."""

import math
from collections.abc import Sequence
from typing import Annotated, Final

from pydantic import Field

from contracts.vocabulary import Contract, StoredRecord

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
"""The texts that targets score; a change invalidates every stored reference."""
SPREAD_FACTOR: Final = 4.0
"""Tolerance, as a multiple of the largest distance between repetitions."""
KEPT: Final = 200
"""Maximum references in a record."""

Answer = tuple[tuple[float, ...], ...]
"""By text: the log-probability in nats of each token after the first."""


class Reference(Contract):
    """The log-probabilities of one target's first load.

    Attributes:
        target: the target's name.
        conditions: manifest, runtime and hardware; only answers under equal conditions are compared.
        logprobs: the answer.
        tolerance_nats: largest accepted distance of a later answer (`distance_nats`).
    """

    target: str
    conditions: str
    logprobs: Answer
    tolerance_nats: Annotated[float, Field(ge=0.0)]


class References(StoredRecord):
    """The references of a fleet, the newest last: `servers/<fleet>.references`."""

    references: tuple[Reference, ...] = ()

    def find(self, target: str, conditions: str) -> Reference | None:
        """Return the reference of a target under `conditions`; None without one."""
        return next((each for each in self.references if (each.target, each.conditions) == (target, conditions)), None)

    def with_new(self, reference: Reference) -> "References":
        """Return the record with a new reference; unchanged if one exists for its target and conditions."""
        if self.find(reference.target, reference.conditions) is not None:
            return self
        return self.model_copy(update={"references": (*self.references, reference)[-KEPT:]})


def distance_nats(first: Answer, second: Answer) -> float:
    """Return the mean absolute difference of token log-probabilities, of the worst text.

    Infinite if the numbers of tokens differ, or a value is not finite.
    """
    if [len(text) for text in first] != [len(text) for text in second]:
        return math.inf
    texts = [[abs(a - b) for a, b in zip(*pair, strict=True)] for pair in zip(first, second, strict=True)]
    means = [math.fsum(text) / len(text) for text in texts if text]
    return max(means, default=0.0) if all(map(math.isfinite, means)) else math.inf


def make_reference(target: str, conditions: str, answers: Sequence[Answer], least_nats: float) -> Reference | None:
    """Return the reference from repeated answers of a target; None if their distance is infinite.

    Args:
        target: the target's name.
        conditions: manifest, runtime and hardware.
        answers: repetitions with different batching, which changes kernels; the first one is stored.
        least_nats: minimum tolerance.
    """
    spread = max(distance_nats(answers[0], other) for other in answers)
    if math.isinf(spread):
        return None
    rounded = tuple(tuple(round(logprob, 4) for logprob in text) for text in answers[0])
    tolerance = max(least_nats, SPREAD_FACTOR * spread)
    return Reference(target=target, conditions=conditions, logprobs=rounded, tolerance_nats=tolerance)


def describe_difference(reference: Reference, answer: Answer) -> str | None:
    """Return an answer's difference from the reference as text; None if within the tolerance."""
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
