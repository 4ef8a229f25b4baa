"""`slipway alerts`: show open alerts, and follow new ones."""

import asyncio
import contextlib
import json
from typing import Annotated, Any

import typer

from clients.cli.connection import StackAddress, connected, find_stack
from clients.cli.events.event_log import EventFilter, LoggedEvent, read_history
from clients.cli.events.following import follow
from clients.cli.events.last_events import last_sequences
from clients.cli.options import JsonOption, StateOption
from clients.cli.output import ended_by_interrupt, is_terminal, show_json, show_line, show_table
from clients.cli.parsing import check_model
from clients.cli.releases.resolving import require_model
from clients.cli.views.alert import COLUMNS, AlertView, alert_event_line, as_data, blocks, fold, row
from contracts.envelope import Event, plain
from contracts.vocabulary import Environment

ALERTS = ("alert.*",)
FOLLOWED = ("alert.*", "rollback.*")
STYLES = {"critical": "bold red", "warning": "yellow", "info": "default"}


def alerts(
    *,
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="Only alerts of this model.")] = None,
    keep_following: Annotated[
        bool, typer.Option("--follow", "-f", help="Then print each alert and rollback event as it arrives.")
    ] = False,
    with_resolved: Annotated[bool, typer.Option("--all", help="Include resolved alerts.")] = False,
    environment: Annotated[
        Environment | None,
        typer.Option(help="Environment of the alerts (default: production); rehearsals and drills may run in staging."),
    ] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show open alerts: severity, target, trigger, value and limit, runbook, evidence.

    Without a terminal the output is one tab-separated line per alert: state, severity, kind, target, trigger,
    value / limit, since, message, runbook, evidence. With --follow --json it is one CloudEvent per line.
    """
    if model is not None:
        check_model(model)
    stack = find_stack(state)
    with ended_by_interrupt(following=keep_following):
        asyncio.run(
            _alerts(
                stack,
                model,
                environment or "production",
                with_resolved=with_resolved,
                following=keep_following,
                as_json=as_json,
            )
        )


async def _alerts(
    stack: StackAddress,
    model: str | None,
    environment: Environment,
    *,
    with_resolved: bool,
    following: bool,
    as_json: bool,
) -> None:
    async with connected(stack) as client:
        js = client.jetstream(timeout=10)
        after = await last_sequences(js)
        history = await read_history(js, model, EventFilter(ALERTS, environment))
        shown = [alert for alert in fold(in_order(history, after)) if alert.open or with_resolved]
        if model is not None and not history:
            await require_model(js, model)
        if not following:
            _show(shown, model, with_resolved=with_resolved, as_json=as_json)
            return
        if as_json:
            for alert in shown:
                _print_event(alert.event, as_json)
        else:
            _show(shown, model, with_resolved=with_resolved, as_json=as_json)
        live = follow(client, model, after=after, where=EventFilter(FOLLOWED, environment))
        async with contextlib.aclosing(live):
            async for logged in live:
                _print_event(logged.event, as_json)


def in_order(history: list[LoggedEvent], until: dict[str, int]) -> list[Event[Any]]:
    """Return the events up to the sequences that `follow` starts after, in the order of the log."""
    kept = [logged for logged in history if logged.sequence <= until.get(logged.stream, 0)]
    return [logged.event for logged in sorted(kept, key=lambda logged: logged.sequence)]


def _show(shown: list[AlertView], model: str | None, *, with_resolved: bool, as_json: bool) -> None:
    if as_json:
        show_json([as_data(alert) for alert in shown])
    elif not shown:
        about = f" of {model}" if model else ""
        show_line(f"no alerts{about}" if with_resolved else f"no open alerts{about}")
    elif is_terminal():
        _show_blocks(shown)
    else:
        show_table(COLUMNS, [row(alert) for alert in shown])


def _show_blocks(shown: list[AlertView]) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    styles = ["bold", *(STYLES[alert.fact.severity] if alert.open else "dim" for alert in shown)]
    for style, (head, below) in zip(styles, blocks(shown), strict=True):
        console.print(head, style=style, markup=False)
        for line in below:
            console.print(f"  {line}", style="dim" if style == "dim" else None, markup=False)


def _print_event(event: Event[Any], as_json: bool) -> None:
    if as_json:
        show_line(json.dumps(plain(event), ensure_ascii=False))
    elif (line := alert_event_line(event)) is not None:
        show_line(line)
