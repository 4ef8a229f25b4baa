"""Pure rules of load balancing: the endpoint for a request, and when a failure ejects an endpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeVar

from decisions.backoff import backoff_s
from services.gateway.domain.records import AnswerFailed

FIRST_S: Final = 1.0
LONGEST_S: Final = 30.0
"""Time until the check of an ejected endpoint, doubled by each failed check up to `LONGEST_S`."""
UNLOADED_S: Final = 10.0
"""Seconds without a loaded endpoint after which failures count against the target."""
RESTARTED_S: Final = 600.0
"""Additional seconds after a restart of the server, to reload its targets."""
STEADY_S: Final = 60.0
"""Seconds of answers that end a target's grace period; the next restart begins a new one."""
UNASKED_S: Final = 60.0
"""Maximum seconds between requests over which an absence is assumed to last."""
MOST: Final = 1_000
"""Maximum entries of a table of endpoints; above it, the oldest is dropped."""
Finding = Literal["away", "doubtful", "well"]
"""Meaning of a failure for an endpoint: it does not serve the target; a check must decide; it serves."""
_DOUBTFUL: Final = frozenset({"engine_dead", "engine_failed", "no_first_token"})

K = TypeVar("K")
V = TypeVar("V")


def remember(known: dict[K, V], key: K, value: V) -> None:
    """Set an entry as the newest; drop the oldest above `MOST` entries."""
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
        """Return the ejection after a failed check, with twice the time until the next."""
        failed = self.failed_checks + 1
        return replace(self, check_s=now_s + backoff_s(failed + 1, FIRST_S, LONGEST_S), failed_checks=failed)


@dataclass(frozen=True)
class Grace:
    """A target's time to load at an endpoint after its server restarted.

    Attributes:
        until_s: the latest end, on the monotonic clock.
        answers_s: since when the target answers again; None while it does not.
    """

    until_s: float
    answers_s: float | None = None

    def note_answer(self, now_s: float) -> "Grace | None":
        """Return the grace period after an answer; None once the target has answered for `STEADY_S`."""
        if self.answers_s is None:
            return replace(self, answers_s=now_s)
        return None if now_s - self.answers_s >= STEADY_S else self


@dataclass(frozen=True)
class Absence:
    """A target that an endpoint's server reports as not loaded.

    Attributes:
        since_s: begin of the absence, in monotonic seconds; after a restart, the end of the grace period.
        asked_s: time of the last request.
    """

    since_s: float
    asked_s: float

    @classmethod
    def note(cls, known: "Absence | None", now_s: float, grace: Grace | None = None) -> "Absence":
        """Return the absence of a target that is not loaded now; a new one after `UNASKED_S` without a request.

        `grace`: the grace period after a restart of the server.
        """
        if known is not None and now_s - known.asked_s < UNASKED_S:
            return cls(known.since_s, now_s)
        return cls(now_s if grace is None else max(now_s, grace.until_s), now_s)


def is_loaded_nowhere(
    endpoints: Sequence[str], absences: Mapping[str, Absence], ejections: Mapping[str, Ejection], now_s: float
) -> bool:
    """Return whether every endpoint was without the target or ejected for `UNLOADED_S`, at least one without it."""
    until_s = now_s - UNLOADED_S
    absent = {endpoint for endpoint, absence in absences.items() if absence.since_s <= until_s}
    ejected = {endpoint for endpoint, ejection in ejections.items() if ejection.since_s <= until_s}
    return bool(absent) and absent | ejected >= set(endpoints)


def choose_endpoint(endpoints: Sequence[str], outstanding: Mapping[str, int], ejections: Mapping[str, Ejection]) -> str:
    """Return the endpoint with the fewest outstanding tokens among those that are not ejected.

    If all are ejected, the one ejected first is used: ejection alone never refuses a request.

    Args:
        endpoints: at least one; the first of equals is chosen.
        outstanding: outstanding tokens by endpoint; 0 without an entry.
        ejections: ejected endpoints.
    """
    usable = [endpoint for endpoint in endpoints if endpoint not in ejections]
    if usable:
        return min(usable, key=lambda endpoint: outstanding.get(endpoint, 0))
    return min(endpoints, key=lambda endpoint: ejections[endpoint].since_s)


def count_outstanding(prompt: int, most: int, generated: int) -> int:
    """Return the tokens that an engine must still process: the prompt until the first token, and the rest of `most`.

    Args:
        prompt: estimated tokens of the prompts.
        most: maximum tokens of the answers.
        generated: tokens generated so far.
    """
    return max(1, most - generated + (0 if generated else prompt))


def assess_failure(failure: AnswerFailed) -> Finding:
    """Return the meaning of a failed request for its endpoint.

    Only failures that no request can cause at a live engine eject an endpoint: a refused or broken connection, a
    target that is not loaded, a reported engine death. A broken-off answer, silence or an engine failure is checked.
    """
    if failure.is_stall:
        return "well"  # `Stalls` ejects it
    is_reported = failure.silent_s is None and not failure.is_cut
    if failure.kind == "endpoint_unreachable" or (failure.kind == "engine_dead" and is_reported):
        return "away"
    return "doubtful" if failure.kind in _DOUBTFUL else "well"
