"""`slipway alerts`: show open alerts."""

from typing import Annotated

import typer
from nats.js import JetStreamContext

from clients.cli.connection import ask_bus, find_stack
from clients.cli.events.event_log import EventFilter, read_history
from clients.cli.options import JsonOption, StateOption
from clients.cli.output import is_terminal, show_json, show_line, show_table
from clients.cli.parsing import check_model
from clients.cli.releases.resolving import require_model
from clients.cli.views.alert import COLUMNS, AlertView, as_data, describe, fold, row
from contracts.vocabulary import Environment

ALERTS = ("alert.*",)


def alerts(
    *,
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="Only alerts of this model.")] = None,
    with_resolved: Annotated[bool, typer.Option("--all", help="Include resolved alerts.")] = False,
    environment: Annotated[
        Environment | None,
        typer.Option(help="Environment of the alerts (default: production); rehearsals and drills may run in staging."),
    ] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show open alerts: severity, target, trigger, value and limit, runbook, evidence.

    Without a terminal: one tab-separated line per alert with state, severity, kind, target, trigger, value / limit,
    since, message, runbook, evidence. `slipway events --follow --type 'alert.*'` prints new alerts.
    """
    if model is not None:
        check_model(model)
    stack = find_stack(state)
    shown = ask_bus(stack, lambda js: _read(js, model, environment or "production", with_resolved=with_resolved))
    _show(shown, model, with_resolved=with_resolved, as_json=as_json)


async def _read(
    js: JetStreamContext, model: str | None, environment: Environment, *, with_resolved: bool
) -> list[AlertView]:
    history = await read_history(js, model, EventFilter(ALERTS, environment))
    if model is not None and not history:
        await require_model(js, model)
    in_order = sorted(history, key=lambda logged: logged.sequence)
    return [alert for alert in fold(logged.event for logged in in_order) if alert.open or with_resolved]


def _show(shown: list[AlertView], model: str | None, *, with_resolved: bool, as_json: bool) -> None:
    if as_json:
        show_json([as_data(alert) for alert in shown])
    elif not shown:
        about = f" of {model}" if model else ""
        show_line(f"no alerts{about}" if with_resolved else f"no open alerts{about}")
    elif is_terminal():
        for alert in shown:
            show_line("\n  ".join(describe(alert)))
    else:
        show_table(COLUMNS, [row(alert) for alert in shown])
