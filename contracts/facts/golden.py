"""What golden prompts showed of the version that serves, and of the previous one."""

from __future__ import annotations

from typing import ClassVar

from ..vocabulary import Contract, Instant, Target
from .fact import Fact


class GoldenOutcome(Contract):
    """What two versions answered to one golden prompt.

    Attributes:
        name: The prompt's name in the policy.
        target, other: Whether the version that serves, and the previous one, answered as expected; None if no complete
            answer came in time, which shows nothing.
        reason: What the answer of the version that serves lacks; never a text of the answer.
    """

    name: str
    target: bool | None = None
    other: bool | None = None
    reason: str = ""

    @property
    def has_fallen(self) -> bool:
        """Return whether only the previous version answered as expected."""
        return self.target is False and self.other is True


class GoldenChecked(Fact):
    """Our own probes asked the golden prompts, and what they show is not what they showed before.

    Attributes:
        target: The version that serves.
        other: The previous version; None without one.
        outcomes: What each prompt showed.
        fallen: Prompts on which the target has fallen in each of the last `agreeing` checks.
        agreeing: Checks in a row that show a fall; 0 if the last one does not.
        message: All of it in a sentence.
    """

    TYPE: ClassVar[str] = "slipway.golden.checked.v1"

    target: Target
    other: Target | None = None
    checked_at: Instant
    outcomes: tuple[GoldenOutcome, ...] = ()
    fallen: tuple[str, ...] = ()
    agreeing: int = 0
    message: str
