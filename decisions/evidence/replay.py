"""Replay: the recorded blocks of an active version through the detectors of another policy. Pure.

A window summary holds, by trigger of that time, the requests of each block and the bad ones among them. A trigger that
finds the same requests bad decides here as in the monitor, with any limit, `own_factor` and `false_alarm_every`.
Candidates, hard failures, drift and evaluations are not replayed.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from contracts.envelope import Event
from contracts.facts import DeploymentChanged, ReleaseOpened, WindowSummarised
from contracts.policy import FALSE_ALARM_EVERY, Trigger
from contracts.vocabulary import Target
from decisions.evidence.block_tests import Block, OpenBlocks, plan_line
from decisions.evidence.observation import TriggerState, begin_anew, close_trigger, current_limit, fresh_trigger
from decisions.evidence.triggers import sequential

_UNKNOWN = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Fired:
    """An alert that would have been raised; `requests` and `bad` are those of the window at whose end it fired."""

    at: datetime
    target: Target
    trigger: Trigger
    requests: int
    bad: int
    e_value: float


@dataclass(frozen=True)
class Replay:
    """The result of a replay.

    Attributes:
        windows: The replayed windows of active versions, oldest first.
        missing: Windows without counts of a trigger, by its name.
    """

    fired: tuple[Fired, ...]
    windows: tuple[WindowSummarised, ...]
    missing: Mapping[str, int]


class _Watched(NamedTuple):
    """The evidence of one trigger; `calm_since` is when the windows within the limit began while an alert is open."""

    state: TriggerState = fresh_trigger("active")
    calm_since: datetime | None = None


def replay(
    triggers: Sequence[Trigger],
    events: Iterable[Event[Any]],
    *,
    since: datetime,
    false_alarm_every: float = FALSE_ALARM_EVERY,
) -> Replay:
    """Return the alerts of triggers over a model's windows since a time, without evidence from before."""
    facts = {event.id: event.data for event in events}
    declared = {data.version: data.policy.triggers for data in facts.values() if isinstance(data, ReleaseOpened)}
    changes = [data for data in facts.values() if isinstance(data, DeploymentChanged)]
    changes.sort(key=lambda change: change.route.epoch)
    windows = [data for data in facts.values() if isinstance(data, WindowSummarised) and data.window.to > since]
    windows.sort(key=lambda summary: summary.window.from_)
    watched, states = sequential(triggers), dict[tuple[datetime, Target, str], _Watched]()
    line = plan_line(false_alarm_every, max(1, len(watched)))
    fired, replayed, missing = list[Fired](), list[WindowSummarised](), Counter[str]()
    for summary in windows:
        active_since = _active_since(changes, summary)
        if active_since is None:
            continue
        replayed.append(summary)
        for trigger in triggers:
            blocks = _blocks_of(trigger, summary, declared.get(summary.target.version, ()))
            if blocks is None or trigger not in watched:
                missing[trigger.name] += 1
                continue
            key = (active_since, summary.target, trigger.name)
            known = states.get(key) or _Watched()
            state, _ = close_trigger(known.state.model_copy(update={"blocks": blocks}), trigger, None)
            requests, calm_since = blocks.bad + blocks.good, None
            if known.state.peak < line <= state.peak:
                fired.append(Fired(summary.window.to, summary.target, trigger, requests, blocks.bad, state.peak))
            elif state.peak >= line and blocks.bad <= current_limit(state, trigger) * requests:
                calm_since = known.calm_since or summary.window.from_
                if (summary.window.to - calm_since).total_seconds() >= 2.0 * trigger.window_s:
                    state = begin_anew(state, "active")
            states[key] = _Watched(state, calm_since)
    return Replay(tuple(fired), tuple(replayed), missing)


def _active_since(changes: Iterable[DeploymentChanged], summary: WindowSummarised) -> datetime | None:
    """Return since when the target of a window was active at its begin, None if it was not.

    Before the first known route, every target counts as active.
    """
    since: datetime | None = _UNKNOWN
    for change in changes:
        if change.at > summary.window.from_:
            break
        is_active = change.route.active is not None and change.route.active.target == summary.target
        since = (since or change.at) if is_active else None
    return since


def _blocks_of(trigger: Trigger, summary: WindowSummarised, recorded: Iterable[Trigger]) -> OpenBlocks | None:
    """Return the blocks of the recorded trigger that finds the same requests bad; None without one."""
    name = next((each.name for each in recorded if _counts_alike(each, trigger)), None)
    if name is None:
        return None
    begin = int(summary.window.from_.timestamp())
    blocks = summary.blocks.get(name, ())
    return OpenBlocks(counts={begin + at: Block(requests=requests, bad=bad) for at, requests, bad in blocks})


def _counts_alike(recorded: Trigger, trigger: Trigger) -> bool:
    """Return whether two triggers find the same requests bad; a goodput depends on other triggers, too."""
    figure = trigger.rule.limits == "figure"
    alike = (recorded.threshold, recorded.is_lower_bound) == (trigger.threshold, trigger.is_lower_bound)
    return recorded.metric == trigger.metric != "goodput_ratio" and (alike or not figure)
