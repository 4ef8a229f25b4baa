"""What a drill does to a request, drawn from the request's id so that every gateway decides alike."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from urllib.parse import quote

from contracts.drills import LONGEST, Drill, drill_key
from contracts.vocabulary import Target
from decisions.drills import is_in_progress
from services.gateway.domain.sampling import fraction

HEADER = "x-slipway-drill"
WORD = "ahoy "
REFUSAL = "I'm sorry, but I can't help with that."
_FEWEST_WORDS = 5
"""Three triples of words, two of them repeats: the shortest text that goes round in circles."""

Alteration = Literal["garble", "empty", "refusal"]


@dataclass(frozen=True)
class Known:
    """A drill as one gateway knows it.

    Attributes:
        until_s: when it ends here, on the monotonic clock: setting the wall clock back does not make it last.
    """

    drill: Drill
    until_s: float


@dataclass(frozen=True)
class Touch:
    """What happens to one request that a drill touches.

    Attributes:
        delay_s: how long it is held before the target is asked.
        fails: it fails without reaching the target.
        alteration: what becomes of the answer's text.
    """

    drill_id: str
    delay_s: float = 0.0
    fails: bool = False
    alteration: Alteration | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The label on the answer; an id that fits into no header is percent-encoded."""
        return {HEADER: quote(self.drill_id, safe="/:")}

    @property
    def failure(self) -> str:
        """What the caller is told when it fails."""
        return f"The drill {self.drill_id} failed this request on purpose; the target was not asked."


def is_misplaced(key: str, drill: Drill) -> bool:
    """Return whether a record lies under a key that is not its own, so that it says nothing about either."""
    return key != drill_key(drill.environment, drill.target.model)


def take_note(drill: Drill, now: datetime, now_s: float) -> Known:
    """Note when a drill ends on the monotonic clock: never later than `LONGEST` from now, whatever it says."""
    left = min(drill.expires_at - now, drill.starts_at - now + LONGEST, LONGEST)
    return Known(drill, now_s + left.total_seconds())


def is_on(known: Known, now: datetime, now_s: float) -> bool:
    """Return whether a drill is under way by both clocks; the first that says it is over ends it."""
    return now_s < known.until_s and is_in_progress(known.drill, now)


def decide_touch(known: Known | None, target: Target, request_id: str, now: datetime, now_s: float) -> Touch | None:
    """Decide what the drill of a model and environment does to a request that `target` answers; None for nothing.

    The share is drawn from drill and request, and which of the touched fail is drawn once more. A request is not held
    longer than the drill lasts. Where a fault asks for a garbled and another answer, the other answer it is.
    """
    if known is None or known.drill.target != target or not is_on(known, now, now_s):
        return None
    drill, fault = known.drill, known.drill.fault
    if fault.does_nothing or fraction(f"{drill.drill_id}|{request_id}") >= drill.share_ratio:
        return None
    return Touch(
        drill_id=drill.drill_id,
        delay_s=min(fault.delay_ms / 1000.0, known.until_s - now_s),
        fails=fraction(f"{drill.drill_id}|{request_id}|fails") < fault.error_ratio,
        alteration=fault.answer or ("garble" if fault.garble else None),
    )


def alter(alteration: Alteration | None, text: str, tokens: int, *, first: bool) -> str:
    """Return what the caller gets in the place of a piece of text.

    Args:
        alteration: None leaves the text alone.
        text: the piece as the engine gave it.
        tokens: how many tokens it stands for; a garbled answer has a word for each.
        first: nothing was given to the caller before.
    """
    if alteration is None:
        return text
    if alteration == "refusal":
        return REFUSAL if first else ""
    if alteration == "empty" or not text:
        return ""
    return WORD * max(tokens, _FEWEST_WORDS if first else 1)
