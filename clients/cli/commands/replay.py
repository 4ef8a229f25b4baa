"""`slipway replay`: recorded traffic through the triggers of another policy."""

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from clients.cli.commands.orders import load_policy
from clients.cli.connection import JsonOption, StackAddress, StateOption, connected, find_stack
from clients.cli.event_log import EventFilter, read_history
from clients.cli.output import Refused, is_terminal, show_json, show_line, show_table
from clients.cli.parsing import check_model, parse_duration
from clients.cli.replay.compare import COLUMNS, Line, as_data, match, read_recorded, row
from clients.cli.replay.engine import Replay, replay
from contracts.envelope import Event
from contracts.policy import Trigger
from shared.runtime.clock import SystemClock

COURSE = ("deployment.changed", "release.opened", "alert.*", "rollback.*")
WINDOWS = ("window.summarised",)


def replay_command(
    *,
    model: str,
    policy: Annotated[Path, typer.Option("--policy", help="Release policy, YAML or JSON: its triggers are replayed.")],
    since: Annotated[str, typer.Option("--since", help="How far back: 12h, 7d.")] = "7d",
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replay recorded windows of live traffic through the triggers of a policy; nothing is changed.

    Shows which alerts would have been raised and when, what each would have led to (rolled back, held and why, or left
    to an operator), and next to it the recorded alerts and rollbacks.

    A window says how many requests were bad, not which: bad ones are spread evenly over the window, so times are right
    to about a window (a minute); where an alert was really raised, from that moment on. Latencies are counted again at
    the policy's threshold, errors as they were; what was not counted then cannot be replayed, and is listed.

    Off a terminal tab-separated: at, target, trigger, bad requests, replayed, recorded.
    """
    check_model(model)
    triggers = load_policy(policy).triggers
    begin = SystemClock().now() - parse_duration(since)
    events = asyncio.run(_read(find_stack(state), model, begin))
    with _busy("replaying"):
        found = replay(triggers, events, since=begin)
    if not found.windows:
        raise Refused(
            f"no window of {model} was summarised in the last {since}; the monitor does that for every minute with "
            "traffic (see `slipway ps`), and --since goes further back"
        )
    lines = match(found, read_recorded(events, begin))
    if as_json:
        show_json(report(model, found, lines, triggers))
    else:
        _show(model, policy, found, lines, triggers)


async def _read(stack: StackAddress, model: str, begin: datetime) -> list[Event[Any]]:
    """Read windows since a moment, and routes, policies, alerts and rollbacks from the first on."""
    async with connected(stack) as client:
        js = client.jetstream(timeout=10)
        with _busy("reading the log"):
            course = await read_history(js, model, EventFilter(COURSE))
            windows = await read_history(js, model, EventFilter(WINDOWS, since=begin))
    said = course + windows
    return [one.event for one in sorted(said, key=lambda one: one.sequence)]


def _busy(what: str) -> contextlib.AbstractContextManager[Any]:
    if not is_terminal():
        return contextlib.nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(what)


def report(model: str, found: Replay, lines: Sequence[Line], triggers: Sequence[Trigger]) -> dict[str, Any]:
    """Return a replay as JSON data."""
    return {
        "model": model,
        "windows": found.windows,
        "requests": found.requests,
        "from": found.begin.isoformat() if found.begin is not None else None,
        "to": found.end.isoformat() if found.end is not None else None,
        "triggers": {one.name: sum(one.name == each.trigger.name for each in found.fired) for one in triggers},
        "not_replayed": [{"trigger": gap.trigger, "reason": gap.reason, "windows": gap.windows} for gap in found.gaps],
        "moments": [as_data(line, found, triggers) for line in lines],
    }


def _show(model: str, policy: Path, found: Replay, lines: Sequence[Line], triggers: Sequence[Trigger]) -> None:
    show_table(COLUMNS, [row(line, found, triggers) for line in lines])
    show_line(
        f"{found.windows} windows of {model} with {found.requests} requests, {found.begin:%Y-%m-%d %H:%M} to "
        f"{found.end:%Y-%m-%d %H:%M} UTC, through {policy}:"
    )
    missing = {gap.trigger: [one for one in found.gaps if one.trigger == gap.trigger] for gap in found.gaps}
    for trigger in triggers:
        fired = [one for one in found.fired if one.trigger.name == trigger.name and not one.again]
        back = sum(one.outcome in ("rolled back", "canary aborted") for one in found.fired if one.trigger == trigger)
        gaps = missing.get(trigger.name, [])
        if sum(gap.windows for gap in gaps) < found.windows:
            show_line(f"  {trigger.name} would have fired {len(fired)} times, and caused {back} rollbacks")
        for gap in gaps:
            show_line(f"  {trigger.name} cannot be replayed in {gap.windows} windows: {gap.reason}")
