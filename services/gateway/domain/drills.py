"""The effect of a drill on a request, drawn by the gateway's own id of the request."""

import math
import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal
from urllib.parse import quote

from contracts.drills import LONGEST, Drill
from contracts.facts import DrillFault
from contracts.records import record_key
from contracts.vocabulary import Target
from decisions.rollback.drills import is_in_progress
from services.gateway.domain.routing import fraction

HEADER = "x-slipway-drill"
WORD = "ahoy "
REFUSAL = "I'm sorry, but I can't help with that."
_FIRST_WORD = re.compile(r"\s*\S*\s?")
_FEWEST_WORDS = 10
"""The shortest text that counts as a loop, `decisions.scorers.repetition.LEAST_CHARS`, has fewer."""

Alteration = Literal["garble", "empty", "refusal", "cut"]


@dataclass(frozen=True)
class KnownDrill:
    """A drill as one gateway knows it.

    Attributes:
        until_s: its end on the monotonic clock: setting the wall clock back does not extend it.
    """

    drill: Drill
    until_s: float


@dataclass(frozen=True)
class DrillEffect:
    """The effect of a drill on one request.

    Attributes:
        delay_s: delay before the request is sent to the target.
        token_delay_s: delay of each part of the answer after the first one, for each of its tokens.
        until_s: the end of the drill on the monotonic clock: no delay lasts longer.
        fails: the request fails without reaching the target.
        alteration: change of the answer's text.
        fault: what the drill changes in the telemetry record (`decisions.rollback.drills.change_record`).
    """

    drill_id: str
    delay_s: float = 0.0
    token_delay_s: float = 0.0
    until_s: float = math.inf
    fails: bool = False
    alteration: Alteration | None = None
    fault: DrillFault = field(default_factory=DrillFault)

    @property
    def headers(self) -> dict[str, str]:
        """Return the header that marks the answer; characters that no header may contain are percent-encoded."""
        return {HEADER: quote(self.drill_id, safe="/:")}

    @property
    def failure(self) -> str:
        """Return the error message of a failed request."""
        return f"The drill {self.drill_id} failed this request on purpose; it was not sent to the target."


def has_wrong_key(key: str, drill: Drill) -> bool:
    """Return whether a record is stored under the key of another model or environment, so that it is not valid."""
    return key != record_key(drill.environment, drill.target.model)


def note_drill(drill: Drill, now: datetime, now_s: float) -> KnownDrill:
    """Return a drill with its end on the monotonic clock, at most `LONGEST` from now."""
    remaining = min(drill.expires_at - now, drill.starts_at - now + LONGEST, LONGEST)
    return KnownDrill(drill, now_s + remaining.total_seconds())


def is_active(known: KnownDrill, now: datetime, now_s: float) -> bool:
    """Return whether a drill is in progress by both clocks; the earlier end counts."""
    return now_s < known.until_s and is_in_progress(known.drill, now)


def decide_effect(
    known: KnownDrill | None, target: Target, draw_id: str, now: datetime, now_s: float
) -> DrillEffect | None:
    """Return the effect of the drill of a model and environment on a request to `target`; None for no effect.

    A hash of drill and request decides which requests are affected, and another hash which of those fail. A request is
    not delayed beyond the end of the drill. If a fault has both `garble` and `answer`, `answer` counts.
    """
    if known is None or known.drill.target != target or not is_active(known, now, now_s):
        return None
    drill, fault = known.drill, known.drill.fault
    if fault.does_nothing or fraction(f"{drill.drill_id}|{draw_id}") >= drill.share_ratio:
        return None
    return DrillEffect(
        drill_id=drill.drill_id,
        delay_s=min((fault.delay_ms + fault.queue_delay_ms) / 1000.0, known.until_s - now_s),
        token_delay_s=fault.token_delay_ms / 1000.0,
        until_s=known.until_s,
        fails=fraction(f"{drill.drill_id}|{draw_id}|fails") < fault.error_ratio,
        alteration=fault.answer or ("garble" if fault.garble else None),
        fault=fault,
    )


def alter(alteration: Alteration | None, text: str, tokens: int, *, first: bool) -> str:
    """Return the text that the caller gets instead of a piece of text.

    Args:
        alteration: None leaves the text unchanged.
        text: the piece from the engine.
        tokens: its number of tokens; a garbled answer has one word for each.
        first: nothing was sent to the caller before.
    """
    if alteration is None:
        return text
    if alteration == "cut":
        return "".join(_FIRST_WORD.findall(text)[:1]) if first else ""
    if alteration == "refusal":
        return REFUSAL if first else ""
    if alteration == "empty" or not text:
        return ""
    return WORD * max(tokens, _FEWEST_WORDS if first else 1)
