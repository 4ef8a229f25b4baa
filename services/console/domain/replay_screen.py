"""The screen of a replay: what the triggers of an edited policy would have done to recorded traffic. Pure."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import yaml
from pydantic import TypeAdapter, ValidationError

from contracts.envelope import Event
from contracts.facts import WindowSummarised
from contracts.policy import Trigger
from decisions.replay.engine import Replay
from services.console.domain.rows import instant
from services.console.domain.screens import Screen, Time

_TRIGGERS: Final = TypeAdapter(tuple[Trigger, ...])
MOST_TRIGGERS: Final = 50
MOST_OUTCOMES: Final = 2_000_000
"""Requests times triggers of one replay: up to half a minute of a processor."""
SMALLER: Final = "Choose fewer hours or triggers, or run `slipway replay`."


class ReplayedAlert(Screen):
    """An alert that would have been raised, and what it would have led to."""

    at: Time
    target: str
    trigger: str
    role: str
    bad: int
    requests: int
    e_value: float
    outcome: str
    to: str | None
    code: str | None
    reason: str


class NotReplayed(Screen):
    """What of a trigger cannot be replayed, and in how many windows."""

    trigger: str
    reason: str
    windows: int


class ReplayResult(Screen):
    """What triggers would have done to the recorded windows of a model."""

    model: str
    since: Time
    windows: int
    requests: int
    begin: Time | None
    end: Time | None
    alerts: tuple[ReplayedAlert, ...]
    gaps: tuple[NotReplayed, ...]
    raised: dict[str, int]
    rollbacks: dict[str, int]


class InvalidPolicyError(ValueError):
    """A text holds no triggers; the message says where and why."""


class ReplayRefusedError(ValueError):
    """A replay is too much work; the message says how much, the limit, and what to do."""


def check_work(model: str, triggers: Sequence[Trigger], events: Sequence[Event[Any]], since: datetime) -> None:
    """Refuse a replay of too many requests times triggers.

    Raises:
        ReplayRefusedError: There are more than 2,000,000.
    """
    windows = {event.id: event.data for event in events if isinstance(event.data, WindowSummarised)}
    requests = sum(window.requests for window in windows.values() if window.window.to > since)
    outcomes = requests * len(triggers)
    if outcomes > MOST_OUTCOMES:
        work = f"{requests:,} requests times {len(triggers)} triggers are {outcomes:,}"
        raise ReplayRefusedError(f"The replay of {model} is refused: {work}; the limit is {MOST_OUTCOMES:,}. {SMALLER}")


def parse_triggers(text: str) -> tuple[Trigger, ...]:
    """Return the triggers in a policy, or in its list `triggers`, as YAML or JSON.

    Raises:
        InvalidPolicyError: It has none, or one that is not valid.
    """
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidPolicyError(f"The policy is no YAML: {str(error)[:300]}") from error
    listed = data.get("triggers") if isinstance(data, dict) else data
    if not isinstance(listed, list) or not listed:
        raise InvalidPolicyError("The policy has no list `triggers` with at least one trigger.")
    if len(listed) > MOST_TRIGGERS:
        raise InvalidPolicyError(f"The policy has {len(listed)} triggers; the limit is {MOST_TRIGGERS}.")
    try:
        triggers = _TRIGGERS.validate_python(listed)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in ("triggers", *first["loc"]))
        raise InvalidPolicyError(f"{where}: {first['msg']}") from error
    names = [trigger.name for trigger in triggers]
    if len(set(names)) < len(names):
        raise InvalidPolicyError("Two triggers have the same name.")
    return triggers


def show_triggers(policy: dict[str, Any]) -> str:
    """Return the triggers of a policy as YAML that a person can edit."""
    return yaml.safe_dump({"triggers": policy["triggers"]}, sort_keys=False, allow_unicode=True)


def result_of(model: str, replay: Replay, triggers: Sequence[Trigger], since: datetime) -> ReplayResult:
    """Return a replay as its screen shows it, the newest alert first."""
    alerts = tuple(
        ReplayedAlert(
            at=instant(fired.at) or "",
            target=str(fired.target),
            trigger=fired.trigger.name,
            role=fired.role,
            bad=fired.hits,
            requests=fired.trials,
            e_value=fired.e_value,
            outcome=fired.outcome,
            to=str(fired.to) if fired.to is not None else None,
            code=fired.code,
            reason=fired.reason,
        )
        for fired in reversed(replay.fired)
    )
    raised = {trigger.name: 0 for trigger in triggers}
    rollbacks = dict(raised)
    for fired in replay.fired:
        raised[fired.trigger.name] += not fired.again
        rollbacks[fired.trigger.name] += fired.outcome in ("rolled back", "canary aborted")
    return ReplayResult(
        model=model,
        since=instant(since) or "",
        windows=replay.windows,
        requests=replay.requests,
        begin=instant(replay.begin),
        end=instant(replay.end),
        alerts=alerts,
        gaps=tuple(NotReplayed(trigger=gap.trigger, reason=gap.reason, windows=gap.windows) for gap in replay.gaps),
        raised=raised,
        rollbacks=rollbacks,
    )
