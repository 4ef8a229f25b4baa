"""`slipway replay`: recorded traffic through the triggers of another policy."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from clients.cli.commands.policy import load_policy
from clients.cli.connection import StackAddress, find_stack, on_bus
from clients.cli.events.event_log import EventFilter, read_history
from clients.cli.options import JsonOption, ModelArgument, StateOption
from clients.cli.output import CommandError, is_terminal, show_json, show_line, show_table
from clients.cli.parsing import check_model, parse_duration
from clients.cli.releases.resolving import advise
from contracts.envelope import Event
from contracts.policy import Trigger
from decisions.evidence.triggers import limit_of
from decisions.replay.engine import Fired, Replay, replay
from shared.runtime.clock import SystemClock

COURSE = ("deployment.changed", "release.opened", "alert.raised")
WINDOWS = ("window.summarised",)
COLUMNS = ("at", "target", "trigger", "bad requests", "replayed")


def replay_command(
    *,
    model: ModelArgument,
    policy: Annotated[Path, typer.Option("--policy", help="Release policy, YAML or JSON: its triggers are replayed.")],
    since: Annotated[str, typer.Option("--since", help="How far back, for example 12h or 7d.")] = "7d",
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replay recorded windows of live traffic with the triggers of a policy. Nothing is changed.

    Shows which alerts would have been raised and when, and what each would have led to (rolled back, held and why, or
    left to an operator). `slipway events` and `slipway alerts` show what was recorded.

    Of the active version, a window records the bad requests of each two seconds, by the triggers of that time: a
    trigger that counts the same requests decides as it did. Otherwise, bad ones are spread evenly over the window, or
    from the time of a recorded alert on, so times are accurate to about one window (one minute). Latencies are counted
    again at the policy's threshold, errors as recorded. Metrics that were not recorded cannot be replayed, and are
    listed.

    Without a terminal the output is tab-separated: at, target, trigger, bad requests, replayed.
    """
    check_model(model)
    declared = load_policy(policy)
    triggers = declared.triggers
    begin = SystemClock().now() - parse_duration(since)
    stack = find_stack(state)
    events = asyncio.run(_read(stack, model, begin))
    with _busy("replaying"):
        result = replay(triggers, events, since=begin, false_alarm_every=declared.false_alarm_every)
    if not result.windows:
        raise CommandError(
            f"no windows of {model} in the last {since}: the monitor records one for every minute with traffic; "
            f"go further back with --since{advise(stack, model, 'slipway ps')}"
        )
    if as_json:
        show_json(report(model, result, triggers))
    else:
        _show(model, policy, result, triggers)


async def _read(stack: StackAddress, model: str, begin: datetime) -> list[Event[Any]]:
    """Return the windows since a time, and all routes, policies and alerts, in the order of the log."""
    async with on_bus(stack) as js:
        with _busy("reading the log"):
            course = await read_history(js, model, EventFilter(COURSE))
            windows = await read_history(js, model, EventFilter(WINDOWS, since=begin))
    return [logged.event for logged in sorted(course + windows, key=lambda logged: logged.sequence)]


def _busy(what: str) -> contextlib.AbstractContextManager[Any]:
    if not is_terminal():
        return contextlib.nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(what)


def report(model: str, result: Replay, triggers: Sequence[Trigger]) -> dict[str, Any]:
    """Return a replay as JSON data."""
    return {
        "model": model,
        "windows": result.windows,
        "requests": result.requests,
        "from": result.begin.isoformat() if result.begin is not None else None,
        "to": result.end.isoformat() if result.end is not None else None,
        "triggers": {
            trigger.name: sum(fired.trigger.name == trigger.name for fired in result.fired) for trigger in triggers
        },
        "not_replayed": [{"trigger": gap.trigger, "reason": gap.reason, "windows": gap.windows} for gap in result.gaps],
        "fired": [as_data(fired) for fired in result.fired],
    }


def as_data(fired: Fired) -> dict[str, Any]:
    """Return a replayed alert as JSON data."""
    target, to = str(fired.target), str(fired.to) if fired.to is not None else None
    trigger = {"trigger": fired.trigger.name, "metric": fired.trigger.metric, "limit": limit_of(fired.trigger)}
    return {**asdict(fired), "at": fired.at.isoformat(), "target": target, "to": to, **trigger}


def row(fired: Fired) -> tuple[str, ...]:
    """Return a replayed alert as cells, in the order of `COLUMNS`."""
    bad = f"{fired.hits} of {fired.trials}, {100 * limit_of(fired.trigger):.3g} % allowed"
    return f"{fired.at:%Y-%m-%d %H:%M:%S}", str(fired.target), fired.trigger.name, bad, would(fired)


def would(fired: Fired) -> str:
    """Return the decision that an alert would have caused."""
    again = " (evaluated again)" if fired.again else ""
    if fired.outcome == "rolled back":
        return f"rolled back to {fired.to}{again}"
    if fired.outcome == "canary aborted":
        return f"canary aborted, {fired.to} stays active{again}"
    code = f" {fired.code}" if fired.code else ""
    return f"{fired.outcome}{code}: {fired.reason}{again}"


def _show(model: str, policy: Path, result: Replay, triggers: Sequence[Trigger]) -> None:
    show_table(COLUMNS, [row(fired) for fired in result.fired])
    show_line(
        f"{result.windows} windows of {model} with {result.requests} requests, {result.begin:%Y-%m-%d %H:%M} to "
        f"{result.end:%Y-%m-%d %H:%M} UTC, through {policy}:"
    )
    missing = {gap.trigger: [other for other in result.gaps if other.trigger == gap.trigger] for gap in result.gaps}
    for trigger in triggers:
        of_trigger = [fired for fired in result.fired if fired.trigger.name == trigger.name]
        raised = [fired for fired in of_trigger if not fired.again]
        rollbacks = sum(fired.outcome in ("rolled back", "canary aborted") for fired in of_trigger)
        gaps = missing.get(trigger.name, [])
        if sum(gap.windows for gap in gaps) < result.windows:
            show_line(f"  {trigger.name} would have raised {len(raised)} alerts and caused {rollbacks} rollbacks")
        for gap in gaps:
            show_line(f"  {trigger.name} cannot be replayed in {gap.windows} windows: {gap.reason}")
