"""The effect of a drill (a deliberately injected fault) on a request, and on the bytes of its answer. Pure."""

import json
import math
import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal
from urllib.parse import quote

from contracts.drills import LONGEST, Drill
from contracts.facts import DrillFault
from contracts.vocabulary import Target
from decisions.rollback.drills import is_in_progress
from services.gateway.domain.routing import fraction

HEADER = "x-slipway-drill"
WORD = "ahoy "
REFUSAL = "I'm sorry, but I can't help with that."
_FIRST_WORD = re.compile(r"\s*\S*\s?")
_FEWEST_WORDS = 10
"""Minimum words of a garbled answer, enough for the repetition scorer (`decisions.scorers.repetition`)."""

Alteration = Literal["garble", "empty", "refusal", "cut"]
_DATA = b"data: "
_END = b"\n\n"
_TEXTS: Final = frozenset({"content", "text", "delta", "refusal", "reasoning", "reasoning_content"})
"""JSON keys of an answer's texts, in all formats of the API."""
_KEPT: Final = frozenset({"function_call", "logprobs", "metadata", "tool_calls", "tools", "usage"})
"""JSON keys with values left unchanged: not texts of the answer, or invalid if altered."""


@dataclass(frozen=True)
class KnownDrill:
    """A drill with its end on this gateway's clock.

    Attributes:
        until_s: the end in monotonic seconds, independent of changes of the wall clock.
    """

    drill: Drill
    until_s: float


@dataclass(frozen=True)
class DrillEffect:
    """The effect of a drill on one request.

    Attributes:
        delay_s: delay before the request is sent to the target.
        token_delay_s: delay per token after the first part of the answer.
        until_s: the end of the drill in monotonic seconds, and of every delay.
        fails: whether the request fails without reaching the target.
        alteration: change of the answer's text.
        fault: changes the telemetry record (`decisions.rollback.drills.change_record`).
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
        """Return the header that marks the answer, with the percent-encoded drill id."""
        return {HEADER: quote(self.drill_id, safe="/:")}

    @property
    def failure(self) -> str:
        """Return the error message of a request that the drill fails."""
        return f"The drill {self.drill_id} failed this request on purpose; it was not sent to the target."


def note_drill(drill: Drill, now: datetime, now_s: float) -> KnownDrill:
    """Return a drill with its end on the monotonic clock, at most `LONGEST` from now."""
    remaining = min(drill.expires_at - now, drill.starts_at - now + LONGEST, LONGEST)
    return KnownDrill(drill, now_s + remaining.total_seconds())


def is_active(known: KnownDrill, now: datetime, now_s: float) -> bool:
    """Return whether a drill is in progress by the wall clock and the monotonic clock."""
    return now_s < known.until_s and is_in_progress(known.drill, now)


def decide_effect(
    known: KnownDrill | None, target: Target, draw_id: str, now: datetime, now_s: float
) -> DrillEffect | None:
    """Return the effect of a drill on a request to `target`; None for no effect.

    One hash of drill and `draw_id` draws the affected requests, another draws the failing ones among them. No delay
    exceeds the end of the drill. `answer` of a fault overrides `garble`.
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
    """Return the altered text of a piece for the caller.

    Args:
        alteration: None leaves the text unchanged.
        text: the piece's text from the engine.
        tokens: tokens of the piece; a garbled answer has one word per token.
        first: whether no text was sent before.
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


class AlteredBody:
    """Alters the body of one answer piece by piece: complete JSON, or server-sent events.

    Args:
        stream: whether the body consists of server-sent events.
        finish_reason: replaces the answer's finish reason; None leaves it.
    """

    def __init__(self, *, stream: bool, finish_reason: str | None = None) -> None:
        self._stream = stream
        self._finish_reason = finish_reason
        self._rest = b""
        self._whole = ""
        self._sent_chars: Counter[int] = Counter()

    def feed(self, body: bytes, text: str) -> bytes:
        """Return the altered bytes for the caller; empty until an event or body is complete.

        Args:
            body: bytes from the engine.
            text: altered text of this piece.
        """
        self._whole += text
        self._rest += body
        if not self._stream:
            return self._alter_body()
        *events, self._rest = self._rest.split(_END)
        return b"".join(self._alter_event(event) + _END for event in events)

    def _alter_body(self) -> bytes:
        try:
            altered = _write(self._alter(json.loads(self._rest), complete=True))
        except (ValueError, RecursionError):
            return b""
        self._rest = b""
        return altered

    def _alter_event(self, event: bytes) -> bytes:
        return b"\n".join(self._alter_line(line) for line in event.split(b"\n"))

    def _alter_line(self, line: bytes) -> bytes:
        try:
            value = json.loads(line.removeprefix(_DATA)) if line.startswith(_DATA) else None
            if not isinstance(value, dict):
                return line
            # Only events of the responses API repeat the complete text.
            return _DATA + _write(self._alter(value, complete=str(value.get("type")).startswith("response.")))
        except (ValueError, RecursionError):
            return line

    def _alter(self, value: Any, *, complete: bool, choice: int = 0) -> Any:
        """Return a JSON value with its texts replaced by the altered text: all of it, or the unsent part.

        Args:
            value: any JSON value of the answer.
            complete: whether the value holds the whole text.
            choice: index of the answer; all answers have the same text.
        """
        if isinstance(value, list):
            return [self._alter(item, complete=complete, choice=choice) for item in value]
        if not isinstance(value, dict):
            return value
        if isinstance(value.get("index"), int):
            choice = value["index"]
        return {name: self._alter_member(name, item, complete=complete, choice=choice) for name, item in value.items()}

    def _alter_member(self, name: str, value: Any, *, complete: bool, choice: int) -> Any:
        if name in _KEPT:
            return value
        if name in _TEXTS and isinstance(value, str) and value:
            return self._whole if complete and name != "delta" else self._take_new(choice)
        if name == "finish_reason" and value is not None and self._finish_reason is not None:
            return self._finish_reason
        return self._alter(value, complete=complete, choice=choice)

    def _take_new(self, choice: int) -> str:
        """Return the unsent text of an answer, and mark it as sent."""
        text = self._whole[self._sent_chars[choice] :]
        self._sent_chars[choice] = len(self._whole)
        return text


def _write(value: Any) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # a lone surrogate needs an escape
        return json.dumps(value, separators=(",", ":")).encode()
