"""What golden prompts show of the version that serves beside the previous one: a fall that no caller can cause.

Both versions are asked the same prompts by our own probes at temperature 0. The version has fallen on a prompt that it
fails and the previous one passes. What both fail, or an answer that did not come, shows nothing. One check alone does
not either: near-ties between tokens change with what else the engine computes, so two checks in a row must show a fall.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from contracts.facts import GoldenOutcome
from contracts.golden import Expectation, GoldenPrompt, GoldenPrompts
from contracts.vocabulary import Contract, Instant, Target

AGREEING: Final = 2
"""Checks in a row that must show a fall."""
DEFERRED: Final = 2
"""Checks in a row that may be left out because an engine has requests in its queue: callers can cause that."""
CHECK_S: Final = 120.0
"""The most time that one check may take."""
QUEUED_MS: Final = 50.0
"""An engine in whose queue a golden prompt waited longer has no spare capacity."""


@dataclass(frozen=True)
class GoldenReply:
    """A complete answer to a golden prompt, and how long it waited in the engine's queue."""

    text: str
    queue_ms: float = 0.0


class GoldenChecks(Contract):
    """The last checks of the version that serves.

    Attributes:
        target: That version.
        other: The previous version; None without one.
        begun_at: When the last check began, or was left out: by it replicas agree on who asks.
        checked_at: When the last one ended; None before the first.
        outcomes: What it showed.
        fallen: Prompts on which the target has fallen in each of the last `agreeing` checks.
        agreeing: Checks in a row that showed a fall.
        deferred: Checks that were left out since the last one.
        is_open: A check has begun, and not ended: its process may have died.
        raised_at: Since when there is an alert about a fall; None without one.
    """

    target: Target
    other: Target | None = None
    begun_at: Instant
    checked_at: Instant | None = None
    outcomes: tuple[GoldenOutcome, ...] = ()
    fallen: tuple[str, ...] = ()
    agreeing: int = 0
    deferred: int = 0
    is_open: bool = False
    raised_at: Instant | None = None


def find_fault(expected: Expectation, answer: str) -> str | None:
    """Return what an answer lacks, without its text; None if it is as expected."""
    given, fold = answer.strip(), str.casefold if expected.ignore_case else str
    text = fold(given)
    if expected.equals is not None and text != fold(expected.equals.strip()):
        return f"it is not {expected.equals.strip()!r}"
    missing = next((part for part in expected.contains if fold(part) not in text), None)
    if missing is not None:
        return f"it does not contain {missing!r}"
    excluded = next((part for part in expected.excludes if fold(part) in text), None)
    if excluded is not None:
        return f"it contains {excluded!r}"
    if expected.min_chars is not None and len(given) < expected.min_chars:
        return f"it has {len(given)} characters, fewer than {expected.min_chars}"
    if expected.max_chars is not None and len(given) > expected.max_chars:
        return f"it has {len(given)} characters, more than {expected.max_chars}"
    return None if given else "it is empty"


def judge_answers(prompt: GoldenPrompt, target: GoldenReply | None, other: GoldenReply | None) -> GoldenOutcome:
    """Return what two answers to a prompt show; an answer is None if none came in time."""
    fault = None if target is None else find_fault(prompt.expect, target.text)
    return GoldenOutcome(
        name=prompt.name,
        target=None if target is None else fault is None,
        other=None if other is None else find_fault(prompt.expect, other.text) is None,
        reason=fault or "",
    )


def is_due(
    checks: GoldenChecks | None, target: Target, other: Target | None, golden: GoldenPrompts, now: datetime
) -> bool:
    """Return whether the golden prompts are to be asked now; also if a clock was set back since the last check.

    A check that has not ended is waited for, for as long as one may take. A clock that is behind by less than that is
    taken for the one of another process: by such clocks, too, one process asks.
    """
    if not golden.prompts:
        return False
    if checks is None or (checks.target, checks.other) != (target, other):
        return True
    interval_s = max(golden.every_s, CHECK_S) if checks.is_open else golden.every_s
    return not timedelta(seconds=-CHECK_S) <= now - checks.begun_at < timedelta(seconds=interval_s)


def begin(checks: GoldenChecks | None, target: Target, other: Target | None, now: datetime) -> GoldenChecks:
    """Return the checks with one that begins now; those of another pair of versions are over."""
    if checks is None or (checks.target, checks.other) != (target, other):
        return GoldenChecks(target=target, other=other, begun_at=now, is_open=True)
    return checks.model_copy(update={"begun_at": now, "is_open": True})


def may_defer(checks: GoldenChecks) -> bool:
    """Return whether a check may be left out for want of capacity: only some in a row, else load could prevent all."""
    return checks.deferred < DEFERRED


def defer(checks: GoldenChecks) -> GoldenChecks:
    """Return the checks without one that was left out."""
    return checks.model_copy(update={"deferred": checks.deferred + 1, "is_open": False})


def note_check(
    checks: GoldenChecks, golden: GoldenPrompts, outcomes: Sequence[GoldenOutcome], now: datetime
) -> GoldenChecks:
    """Return the checks with what another one showed.

    A prompt without an answer neither adds to a fall nor ends it, so that load does not end one.
    """
    fallen = tuple(outcome.name for outcome in outcomes if outcome.has_fallen)
    unknown = {outcome.name for outcome in outcomes if outcome.target is None or outcome.other is None}
    again = [name for name in checks.fallen if name in fallen]
    lasting = tuple(name for name in checks.fallen if name in fallen or name in unknown)
    update: dict[str, object] = {"outcomes": tuple(outcomes), "checked_at": now, "deferred": 0, "is_open": False}
    if checks.agreeing and len(again) > golden.allowed_falls:
        update |= {"fallen": lasting, "agreeing": checks.agreeing + 1}
    elif not checks.agreeing or len(lasting) <= golden.allowed_falls:
        shows = len(fallen) > golden.allowed_falls
        update |= {"fallen": fallen if shows else (), "agreeing": int(shows)}
    return checks.model_copy(update=update)


def describe(checks: GoldenChecks, golden: GoldenPrompts) -> str:
    """Return what the last check showed, in a sentence."""
    asked = len(checks.outcomes)
    passed = sum(outcome.target is True for outcome in checks.outcomes)
    other = sum(outcome.other is True for outcome in checks.outcomes)
    silent = sum(outcome.target is None or outcome.other is None for outcome in checks.outcomes)
    previous = f"; {checks.other}, the previous one, passes {other}" if checks.other is not None else ""
    unknown = f"; {silent} had no answer in time" if silent else ""
    fallen = [outcome.name for outcome in checks.outcomes if outcome.has_fallen]
    falls = f". Only {checks.target} fails {', '.join(fallen)}" if fallen else ""
    allowed = f" ({golden.allowed_falls} allowed)" if fallen and golden.allowed_falls else ""
    return f"{checks.target} passes {passed} of {asked} golden prompts{previous}{unknown}{falls}{allowed}."
