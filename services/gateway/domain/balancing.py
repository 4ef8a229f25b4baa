"""The choice of a target's endpoint for a request, and the meaning of a failure for an endpoint. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeVar

from decisions.backoff import backoff_s
from services.gateway.domain.records import AnswerFailed

FIRST_S: Final = 1.0
LONGEST_S: Final = 30.0
"""Time until an ejected endpoint is checked, and the most of it: it doubles with each check that fails."""
UNLOADED_S: Final = 10.0
"""How long a target is loaded nowhere before that is its own doing."""
RESTARTED_S: Final = 600.0
"""How long more where its server was away just before: it was started anew, and loads what it had."""
STEADY_S: Final = 60.0
"""After so long of answers a target that is gone again has that time anew."""
UNASKED_S: Final = 60.0
"""After so long without a request, nothing is known of the time in between."""
MOST: Final = 1_000
"""What is remembered of endpoints; above it the oldest is forgotten."""
Finding = Literal["away", "doubtful", "well"]
"""What a failure shows of an endpoint: it does not serve the target; it may not, which a check decides; nothing."""
_DOUBTFUL: Final = frozenset({"engine_dead", "engine_failed", "no_first_token"})

K = TypeVar("K")
V = TypeVar("V")


def remember(known: dict[K, V], key: K, value: V) -> None:
    """Set an entry as the newest one; forget the oldest above `MOST`."""
    known.pop(key, None)
    if len(known) >= MOST:
        del known[next(iter(known))]
    known[key] = value


@dataclass(frozen=True)
class Ejection:
    """An endpoint that gets no requests to a target.

    Attributes:
        since_s: when it was ejected, on the monotonic clock.
        check_s: monotonic time of the next check.
        failed_checks: failed checks since the ejection.
    """

    since_s: float
    check_s: float
    failed_checks: int = 0

    @classmethod
    def begin(cls, now_s: float) -> "Ejection":
        """Return the ejection of an endpoint that failed now."""
        return cls(now_s, now_s + FIRST_S)

    def extend(self, now_s: float) -> "Ejection":
        """Return the ejection after a check that failed: the next comes after twice the time."""
        failed = self.failed_checks + 1
        return replace(self, check_s=now_s + backoff_s(failed + 1, FIRST_S, LONGEST_S), failed_checks=failed)


@dataclass(frozen=True)
class Grace:
    """A target's grace period at an endpoint whose server was restarted; it ends early once the target is steady.

    Attributes:
        until_s: its latest end, on the monotonic clock.
        answers_s: since when the target answers again; None while it does not.
    """

    until_s: float
    answers_s: float | None = None

    def note_answer(self, now_s: float) -> "Grace | None":
        """Return the grace after an answer; None once the target has answered for `STEADY_S`."""
        if self.answers_s is None:
            return replace(self, answers_s=now_s)
        return None if now_s - self.answers_s >= STEADY_S else self


@dataclass(frozen=True)
class Absence:
    """An endpoint whose server answers that it has not loaded a target.

    Attributes:
        since_s: since when, on the monotonic clock; after a restart, from when on it is late.
        asked_s: when it was last asked.
    """

    since_s: float
    asked_s: float

    @classmethod
    def note(cls, known: "Absence | None", now_s: float, grace: Grace | None = None) -> "Absence":
        """Return the absence of a target that is not loaded now; it begins anew after `UNASKED_S` without a request.

        `grace`: what it has because its server was out of reach just before.
        """
        if known is not None and now_s - known.asked_s < UNASKED_S:
            return cls(known.since_s, now_s)
        return cls(now_s if grace is None else max(now_s, grace.until_s), now_s)


def is_loaded_nowhere(
    endpoints: Sequence[str], absences: Mapping[str, Absence], ejections: Mapping[str, Ejection], now_s: float
) -> bool:
    """Return whether a target had no usable endpoint for `UNLOADED_S`, and an endpoint reports it as not loaded.

    An endpoint that was ejected for as long serves it no more than one without it.
    """
    until_s = now_s - UNLOADED_S
    absent = {endpoint for endpoint, absence in absences.items() if absence.since_s <= until_s}
    ejected = {endpoint for endpoint, ejection in ejections.items() if ejection.since_s <= until_s}
    return bool(absent) and absent | ejected >= set(endpoints)


def choose_endpoint(endpoints: Sequence[str], outstanding: Mapping[str, int], ejections: Mapping[str, Ejection]) -> str:
    """Return the endpoint with the fewest outstanding tokens among those that are not ejected.

    If all are ejected, it is the one that was ejected first: ejection alone never refuses a request.

    Args:
        endpoints: at least one; of equal ones the first is chosen.
        outstanding: tokens that are outstanding at each; without an entry, none.
        ejections: those that are ejected.
    """
    usable = [endpoint for endpoint in endpoints if endpoint not in ejections]
    if usable:
        return min(usable, key=lambda endpoint: outstanding.get(endpoint, 0))
    return min(endpoints, key=lambda endpoint: ejections[endpoint].since_s)


def count_outstanding(prompt: int, most: int, generated: int) -> int:
    """Return the tokens that a request still costs an engine: its prompt until the first token, its possible output.

    Args:
        prompt: tokens of its prompts, estimated.
        most: tokens that its answers may have.
        generated: tokens of them that came.
    """
    return max(1, most - generated + (0 if generated else prompt))


def assess_failure(failure: AnswerFailed) -> Finding:
    """Return the meaning of a failed request for its endpoint.

    Only what no request can cause while its engine lives ejects an endpoint: a connection that is refused or broken, a
    target that is not loaded there, a death that the engine reports. An answer that breaks off, silence, and what the
    engine fails are reasons to check.
    """
    if failure.is_stall:
        return "well"  # it is ejected as long as it stalls
    is_reported = failure.silent_s is None and not failure.is_cut
    if failure.kind == "endpoint_unreachable" or (failure.kind == "engine_dead" and is_reported):
        return "away"
    return "doubtful" if failure.kind in _DOUBTFUL else "well"
