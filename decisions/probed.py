"""What our own probes show of an alert that nothing confirms yet: requests that no caller chose, to both versions.

Each round asks the target and the previous version the same; all run at once, and two that agree decide. Only latency
and errors can be probed: a short fixed prompt shows nothing of quality.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from contracts.policy import Trigger
from decisions.triggers import kind_of

Shown = Literal["target", "both", "neither"]
"""Who is bad: the target alone, both sides, or at most the previous version."""
ROUNDS: Final = 3
_AGREEING: Final = 2
_ENOUGH: Final = 1.1
"""So many times the threshold of a first token are waited for it: a busy process reads an answer a little late."""
_RATIO: Final = 1.5
"""An answer takes too long from so many times the other side's, where the threshold is about callers' answers."""


@dataclass(frozen=True)
class ProbedAnswer:
    """The answer to a probe."""

    ttft_ms: float
    itl_ms: float

    @property
    def whole_ms(self) -> float:
        """Return how long a first token and one more take."""
        return self.ttft_ms + self.itl_ms


TIMED_OUT: Final = ProbedAnswer(math.inf, math.inf)
"""In place of an answer that did not come in time. None is an error at once, as from an engine that has died."""


def can_probe(trigger: Trigger) -> bool:
    """Return whether probes can show anything of a trigger."""
    return kind_of(trigger) in ("latency", "errors")


def enough_s(trigger: Trigger) -> float | None:
    """Return after how many seconds without a first token a probe shows that its side is slow; None if it never does.

    Then the rest of the answer need not be waited for, and nothing after the first token of any.
    """
    return _ENOUGH * trigger.threshold / 1000.0 if trigger.metric == "ttft_ms" else None


def judge(trigger: Trigger, target: ProbedAnswer | None, other: ProbedAnswer | None) -> Shown:
    """Return what one round shows; an answer is None after an error, and `TIMED_OUT` if none came in time."""
    target, other = _in_time(target), _in_time(other)
    if kind_of(trigger) == "errors" or target is None or other is None:
        bad = (target is None, other is None)
    elif trigger.metric == "ttft_ms":
        bad = (target.ttft_ms > trigger.threshold, other.ttft_ms > trigger.threshold)
    elif trigger.metric == "itl_ms":
        bad = (target.itl_ms > trigger.threshold, other.itl_ms > trigger.threshold)
    else:
        bad = (target.whole_ms > _RATIO * other.whole_ms, False)
    return "both" if all(bad) else "target" if bad[0] else "neither"


def is_gone(answers: Iterable[ProbedAnswer | None]) -> bool:
    """Return whether as many probes of one side as decide met an error at once: its engine may just have died."""
    return sum(answer is None for answer in answers) >= _AGREEING


def answers_all(answers: Iterable[ProbedAnswer | None]) -> bool:
    """Return whether each probe of one side was answered in time."""
    return all(_in_time(answer) is not None for answer in answers)


def decide_shown(rounds: Iterable[Shown]) -> Shown | None:
    """Return what two rounds agree on; None if no two do."""
    (shown, count), *_ = [*Counter(rounds).most_common(1), (None, 0)]
    return shown if count >= _AGREEING else None


def _in_time(answer: ProbedAnswer | None) -> ProbedAnswer | None:
    return None if answer == TIMED_OUT else answer
