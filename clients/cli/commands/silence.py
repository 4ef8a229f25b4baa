"""`slipway silence` and `slipway ack`: whether alerts are sent to people, and who takes care of one."""

import asyncio
from datetime import timedelta
from typing import Annotated, Any

import typer

from clients.cli.archived_events import read_alerts
from clients.cli.commands.alerts import ALERTS
from clients.cli.commands.orders import (
    EXPIRES,
    ExpiresOption,
    ReasonOption,
    await_answer,
    expires_at,
    order,
    publish_order,
)
from clients.cli.connection import (
    JsonOption,
    StackAddress,
    StateOption,
    connected,
    find_stack,
    sender_of,
)
from clients.cli.event_log import EventFilter
from clients.cli.output import CommandError, Exit, show_json, show_line
from clients.cli.parsing import check_model, parse_duration
from clients.cli.reading import RecordsOfModels
from clients.cli.resolving import require_model
from clients.cli.views.alert import AlertView, fold
from contracts.facts import AcknowledgementOrdered, Fact, SilenceOrdered
from contracts.routes import Route
from shared.runtime.clock import SystemClock

WAIT_S = 15.0
LONGEST = timedelta(days=30)
NAMED = 10


def silence(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="The model; without it, all models that have a route.")
    ] = None,
    *,
    trigger: Annotated[
        str | None,
        typer.Option("--trigger", help="Only alerts of this trigger, or of this kind (`engine`, `drift` …)."),
    ] = None,
    lasts: Annotated[str, typer.Option("--for", help="How long, at most 30d.")] = "2h",
    stop: Annotated[bool, typer.Option("--stop", help="End the silence of this model and trigger.")] = False,
    reason: ReasonOption,
    expires: ExpiresOption = EXPIRES,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send no notifications of a model's new alerts for a while. Alerts are raised, and roll back, as before.

    Without --trigger, critical alerts are sent all the same. When the silence ends, alerts that are still open are
    sent. The end of an alert that was sent before is sent during it.
    """
    if model is not None:
        check_model(model)
    elif trigger is None:
        raise CommandError("name a model, or a --trigger to silence it for all models", Exit.USAGE)
    span = timedelta() if stop else parse_duration(lasts)
    if span > LONGEST:
        raise CommandError(f"--for {lasts} is too long: the limit is {LONGEST.days}d", Exit.USAGE)
    until = SystemClock().now() + span
    fact = SilenceOrdered(reason=reason, trigger=trigger, until=until, expires_at=expires_at(expires))
    stack = find_stack(state)
    models = asyncio.run(_models(stack, model))
    answers = [asyncio.run(_order(stack, each, fact)) for each in models]
    what = ", ".join(models) if trigger is None else f"{', '.join(models)} ({trigger})"
    but = ", but for critical ones" if trigger is None else ""
    if as_json:
        show_json(
            [
                {"model": each, "trigger": trigger, "until": until.isoformat(), **details}
                for each, details in zip(models, answers, strict=True)
            ]
        )
    elif stop:
        show_line(f"alerts of {what} are sent again")
    else:
        show_line(f"new alerts of {what} are not sent until {until:%Y-%m-%d %H:%M:%S} UTC{but}; rollbacks go on")


def ack(
    alert: Annotated[str, typer.Argument(metavar="ALERT", help="Id of an open alert: `slipway alerts --json`.")],
    *,
    reason: Annotated[str, typer.Option("--reason", help="What is done about it, kept in the record.")] = "",
    expires: ExpiresOption = EXPIRES,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Acknowledge an open alert: the receivers that it was sent to are told who handles it."""
    until = expires_at(expires)
    model, details = asyncio.run(_ack(find_stack(state), alert, reason, until))
    if as_json:
        show_json({"model": model, "alert_id": alert, **details})
    else:
        show_line(f"{alert} is acknowledged by {details.get('acknowledged_by', 'you')}")


async def _models(stack: StackAddress, model: str | None) -> list[str]:
    """Return the model, or without one the models that have a route and that this identity may read.

    Raises:
        CommandError: there is none.
    """
    async with connected(stack) as client:
        js = client.jetstream(timeout=10)
        if model is not None:
            await require_model(js, model)
            return [model]
        models = sorted(await RecordsOfModels(js, "routes", Route).all())
    if not models:
        raise CommandError("no model has a route, so no alert of one is sent")
    return models


async def _ack(stack: StackAddress, alert_id: str, reason: str, until: Any) -> tuple[str, dict[str, Any]]:
    async with connected(stack) as client:
        history = await read_alerts(client.jetstream(timeout=10), stack, None, EventFilter(ALERTS))
    model = model_of(alert_id, [view for view in fold(logged.event for logged in history) if view.open])
    fact = AcknowledgementOrdered(alert_id=alert_id, reason=reason, expires_at=until)
    return model, await _order(stack, model, fact)


def model_of(alert_id: str, views: list[AlertView]) -> str:
    """Return the model of an open alert.

    Raises:
        CommandError: no alert of this id is open; the message names some that are.
    """
    by_id = {view.event.data.alert_id: view.event.subject for view in views}
    if alert_id not in by_id:
        known = ", ".join(list(by_id)[:NAMED]) or "none is"
        raise CommandError(f"no alert {alert_id!r} is open; open: {known}", Exit.USAGE)
    return by_id[alert_id]


async def _order(stack: StackAddress, model: str, fact: Fact) -> dict[str, Any]:
    """Publish an order to the notifier; return the details of its answer."""
    async with connected(stack) as client:
        js = client.jetstream(timeout=10)
        published = order(sender_of(stack), model, None, fact)
        after = await publish_order(js, published)
        return (await await_answer(js, published, after, WAIT_S)).details
