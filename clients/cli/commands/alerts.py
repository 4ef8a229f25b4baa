"""`slipway alerts`: what is wrong now, and what is said about it from now on."""

import asyncio
import contextlib
import json
from typing import Annotated, Any

import typer

from clients.cli.connection import JsonOption, Place, StateOption, connected, find_place
from clients.cli.event_log import Part, Said, follow, newest, read_history
from clients.cli.output import is_terminal, show_json, show_line, show_table
from clients.cli.parsing import check_model
from clients.cli.views.alert import COLUMNS, Alarm, as_data, blocks, fold, news_line, row
from contracts.envelope import Event, plain
from contracts.vocabulary import Environment

ALERTS = ("alert.*",)
NEWS = ("alert.*", "rollback.*")
STYLES = {"critical": "bold red", "warning": "yellow", "info": "default"}


def alerts(
    *,
    model: Annotated[str | None, typer.Argument(help="Only about this model.")] = None,
    follow_it: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with each alert and rollback fact as it comes.")
    ] = False,
    all_of_them: Annotated[bool, typer.Option("--all", help="Also what is resolved.")] = False,
    environment: Annotated[Environment, typer.Option(help="staging: rehearsals and drills there.")] = "production",
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show open alerts: severity, target, trigger, value against limit, runbook, evidence.

    Off a terminal one tab-separated line an alert: state, severity, kind, target, trigger, value / limit, since,
    message, runbook, evidence. With --follow --json whole CloudEvents, one a line.
    """
    if model is not None:
        check_model(model)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(
            _alerts(find_place(state), model, environment, resolved_too=all_of_them, go_on=follow_it, as_json=as_json)
        )


async def _alerts(
    place: Place, model: str | None, environment: Environment, *, resolved_too: bool, go_on: bool, as_json: bool
) -> None:
    async with connected(place) as client:
        js = client.jetstream(timeout=10)
        after = await newest(js)
        said = await read_history(js, model, Part(ALERTS, environment))
        shown = [one for one in fold(in_order(said, after)) if one.open or resolved_too]
        if not go_on:
            _show(shown, model, resolved_too=resolved_too, as_json=as_json)
            return
        if as_json:
            for alarm in shown:
                _tell(alarm.event, as_json)
        else:
            _show(shown, model, resolved_too=resolved_too, as_json=as_json)
        news = follow(client, model, after=after, part=Part(NEWS, environment))
        async with contextlib.aclosing(news):
            async for one in news:
                _tell(one.event, as_json)


def in_order(said: list[Said], until: dict[str, int]) -> list[Event[Any]]:
    """Return the events up to the end of the log that `follow` goes on from, in the log's own order."""
    kept = [one for one in said if one.sequence <= until.get(one.stream, 0)]
    return [one.event for one in sorted(kept, key=lambda one: one.sequence)]


def _show(shown: list[Alarm], model: str | None, *, resolved_too: bool, as_json: bool) -> None:
    if as_json:
        show_json([as_data(one) for one in shown])
    elif not shown:
        about = f" of {model}" if model else ""
        show_line(f"no alerts{about}" if resolved_too else f"no open alerts{about}")
    elif is_terminal():
        _show_blocks(shown)
    else:
        show_table(COLUMNS, [row(one) for one in shown])


def _show_blocks(shown: list[Alarm]) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    styles = ["bold", *(STYLES[one.fact.severity] if one.open else "dim" for one in shown)]
    for style, (head, below) in zip(styles, blocks(shown), strict=True):
        console.print(head, style=style, markup=False)
        for line in below:
            console.print(f"  {line}", style="dim" if style == "dim" else None, markup=False)


def _tell(event: Event[Any], as_json: bool) -> None:
    if as_json:
        show_line(json.dumps(plain(event), ensure_ascii=False))
    elif (line := news_line(event)) is not None:
        show_line(line)
