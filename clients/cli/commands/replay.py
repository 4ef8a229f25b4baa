"""`slipway replay`: recorded traffic through the triggers of another policy."""

import asyncio
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
from clients.cli.output import CommandError, show_json, show_line, show_table
from clients.cli.parsing import check_model, parse_duration
from clients.cli.releases.resolving import advise
from contracts.envelope import Event
from contracts.policy import Trigger
from decisions.evidence.replay import Fired, Replay, replay
from decisions.evidence.triggers import limit_of
from shared.runtime.clock import SystemClock

COURSE = ("deployment.changed", "release.opened")
WINDOWS = ("window.summarised",)
COLUMNS = ("at", "target", "trigger", "bad requests", "action")


def replay_command(
    *,
    model: ModelArgument,
    policy: Annotated[Path, typer.Option("--policy", help="Release policy, YAML or JSON: its triggers are replayed.")],
    since: Annotated[str, typer.Option("--since", help="How far back, for example 12h or 7d.")] = "7d",
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replay recorded windows of the active versions with the triggers of a policy. Nothing is changed.

    Shows which alerts would have been raised, in which minute, and the action of their trigger. `slipway events` and
    `slipway alerts` show what was recorded.

    Windows record the bad requests of each two seconds, by the triggers of that time: a trigger that finds the same
    requests bad decides as the monitor would, with another limit, `own_factor` or `false_alarm_every`, too. Other
    triggers cannot be replayed, and are listed.

    Without a terminal the output is tab-separated: at, target, trigger, bad requests, action.
    """
    check_model(model)
    declared = load_policy(policy)
    begin = SystemClock().now() - parse_duration(since)
    stack = find_stack(state)
    events = asyncio.run(_read(stack, model, begin))
    result = replay(declared.triggers, events, since=begin, false_alarm_every=declared.false_alarm_every)
    if not result.windows:
        raise CommandError(
            f"no windows of an active {model} in the last {since}: the monitor records one for every minute with "
            f"traffic; go further back with --since{advise(stack, model, 'slipway ps')}"
        )
    data = report(model, result, declared.triggers)
    if as_json:
        show_json(data)
        return
    show_table(COLUMNS, [row(fired) for fired in result.fired])
    show_line(
        f"{data['windows']} windows of {model} with {data['requests']} requests, {data['from']} to {data['to']}, "
        f"through {policy}:"
    )
    for name, alerts in data["triggers"].items():
        missing = data["not_replayed"].get(name, 0)
        if missing < data["windows"]:
            show_line(f"  {name} would have raised {alerts} alerts")
        if missing:
            show_line(f"  {name} cannot be replayed in {missing} windows: no trigger of that time counted the same")


async def _read(stack: StackAddress, model: str, begin: datetime) -> list[Event[Any]]:
    """Return the windows since a time, and all routes and policies."""
    async with on_bus(stack) as js:
        course = await read_history(js, model, EventFilter(COURSE))
        windows = await read_history(js, model, EventFilter(WINDOWS, since=begin))
    return [logged.event for logged in course + windows]


def report(model: str, result: Replay, triggers: Sequence[Trigger]) -> dict[str, Any]:
    """Return a replay with at least one window as JSON data."""
    return {
        "model": model,
        "windows": len(result.windows),
        "requests": sum(summary.requests for summary in result.windows),
        "from": result.windows[0].window.from_.isoformat(timespec="minutes"),
        "to": result.windows[-1].window.to.isoformat(timespec="minutes"),
        "triggers": {
            trigger.name: sum(fired.trigger.name == trigger.name for fired in result.fired) for trigger in triggers
        },
        "not_replayed": dict(result.missing),
        "fired": [as_data(fired) for fired in result.fired],
    }


def as_data(fired: Fired) -> dict[str, Any]:
    """Return a replayed alert as JSON data."""
    trigger = fired.trigger
    declared = {"trigger": trigger.name, "metric": trigger.metric, "limit": limit_of(trigger), "action": trigger.action}
    return {**asdict(fired), "at": fired.at.isoformat(), "target": str(fired.target), **declared}


def row(fired: Fired) -> tuple[str, ...]:
    """Return a replayed alert as cells, in the order of `COLUMNS`."""
    bad = f"{fired.bad} of {fired.requests}, {100 * limit_of(fired.trigger):.3g} % allowed"
    return f"{fired.at:%Y-%m-%d %H:%M}", str(fired.target), fired.trigger.name, bad, fired.trigger.action
