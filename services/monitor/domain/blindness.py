"""Finds models without monitoring: implausible telemetry, no requests with evidence, or unknown triggers. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from contracts.policy import Trigger
from contracts.vocabulary import ModelName
from decisions.evidence.alerts import Finding
from services.monitor.domain.record import MonitorState, TargetState

LONGEST_S = 60.0
"""Seconds of telemetry without a valid record before the alert."""
KEY = "blind"
KEY_OF_POLICIES = "blind-policies"
KEY_OF_KEYS = "blind-keys"
UNFED_REQUESTS, UNFED_S = 100, 600.0
"""Requests without evidence, and seconds since the last evidence or the version's start, that raise an alert for
automatic triggers."""


def note_batch(state: MonitorState, *, records: int, implausible: int, now: datetime) -> MonitorState:
    """Return the record with `ignored_since` and `ignored_at` updated by a batch."""
    if records == 0 or (implausible < records and state.ignored_since is None):
        return state
    ignored = implausible == records
    update = {
        "ignored_since": (state.ignored_since or now) if ignored else None,
        "ignored_at": now if ignored else None,
    }
    return state.model_copy(update=update)


def find_blindness(state: MonitorState) -> Finding:
    """Return the finding on telemetry that was ignored completely for `LONGEST_S`; missing telemetry is none."""
    since = state.ignored_since
    for_s = 0.0 if since is None else ((state.ignored_at or since) - since).total_seconds()
    message = f"All telemetry of {for_s:.0f} s was ignored, because it cannot be true: no trigger is watched."
    return Finding(
        key=KEY,
        kind="blind",
        severity="critical",
        trigger=None,
        fired=for_s >= LONGEST_S,
        calm=since is None,
        hold_s=0.0,
        message=message if since is not None else "Telemetry counts again.",
        value=round(for_s, 1),
        limit=LONGEST_S,
    )


def find_unfed(watched: TargetState, triggers: Sequence[Trigger]) -> Finding:
    """Return the finding on a version with automatic triggers and no recent request that is evidence."""
    automatic = [trigger.name for trigger in triggers if trigger.action == "automatic"]
    is_long = (watched.last_at - (watched.fed_at or watched.since)).total_seconds() >= UNFED_S
    unfed = bool(automatic) and watched.unfed >= UNFED_REQUESTS and is_long
    message = (
        f"None of the last {watched.unfed} requests to {watched.target} is evidence: their keys are issued with "
        f"--no-evidence, so that nothing feeds {', '.join(automatic)}."
    )
    return Finding(
        key=KEY_OF_KEYS,
        kind="blind",
        severity="critical",
        trigger=None,
        fired=unfed,
        calm=not watched.unfed,
        hold_s=0.0,
        message=message if unfed else "Requests are evidence again.",
        value=float(watched.unfed),
    )


def find_unknown_policies(state: MonitorState) -> Finding:
    """Return the finding on routed versions with unknown triggers."""
    unknown = state.unknown
    return Finding(
        key=KEY_OF_POLICIES,
        kind="blind",
        severity="critical",
        trigger=None,
        fired=bool(unknown),
        calm=not unknown,
        hold_s=0.0,
        message=_describe_unknown(state.model, unknown) if unknown else "All triggers are known again.",
        value=float(len(unknown)),
        limit=0.0,
    )


def _describe_unknown(model: ModelName, unknown: Mapping[Any, str]) -> str:
    """Return the message about versions with unknown policies."""
    versions, reason = ", ".join(map(str, unknown)), next(iter(unknown.values()), "")
    return (
        f"The policies of these versions of {model} are neither recorded nor can they be read from what is signed with "
        f"them: {versions}. None of their triggers is watched, and no alert about them starts a rollback. {reason}"
    )
