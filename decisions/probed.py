"""What our own probes show of an alert that nothing confirms yet: requests that no caller chose, to both versions.

Each round asks the target and the version behind the same; all run at once, and two that agree decide. Only latency and
errors can be probed: a short fixed prompt shows nothing of quality.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from contracts.policy import Trigger
from decisions.triggers import kind_of

Shown = Literal["target", "both", "neither"]
"""Who is bad: the target alone, both sides, or at most the version behind."""
ROUNDS: Final = 3
_AGREEING: Final = 2
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


def can_probe(trigger: Trigger) -> bool:
    """Return whether probes can show anything of a trigger."""
    return kind_of(trigger) in ("latency", "errors")


def judge(trigger: Trigger, target: ProbedAnswer | None, other: ProbedAnswer | None) -> Shown:
    """Return what one round shows; an answer is None if none came in time."""
    if kind_of(trigger) == "errors" or target is None or other is None:
        bad = (target is None, other is None)
    elif trigger.metric == "ttft_ms":
        bad = (target.ttft_ms > trigger.threshold, other.ttft_ms > trigger.threshold)
    elif trigger.metric == "itl_ms":
        bad = (target.itl_ms > trigger.threshold, other.itl_ms > trigger.threshold)
    else:
        bad = (target.whole_ms > _RATIO * other.whole_ms, False)
    return "both" if all(bad) else "target" if bad[0] else "neither"


def decide_shown(rounds: Iterable[Shown]) -> Shown | None:
    """Return what two rounds agree on; None if no two do."""
    (shown, count), *_ = [*Counter(rounds).most_common(1), (None, 0)]
    return shown if count >= _AGREEING else None
