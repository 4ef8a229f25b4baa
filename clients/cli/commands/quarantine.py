"""`slipway quarantine`: list targets that were quarantined by a rollback, and lift a quarantine."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import typer
from nats.js import JetStreamContext

from clients.cli.commands.orders import (
    EPOCH_TRIES,
    EXPIRES,
    ExpiresOption,
    ReasonOption,
    expires_at,
    order,
    publish_order,
    refusal,
    refused_error,
)
from clients.cli.connection import JsonOption, StackAddress, StateOption, connected, find_stack, sender_of
from clients.cli.event_log import EventFilter, read_history
from clients.cli.names import parse_name
from clients.cli.output import CommandError, Exit, show_json, show_line, show_table
from clients.cli.parsing import check_model
from clients.cli.reading import RecordsOfModels
from clients.cli.resolving import require_model
from clients.cli.serving import read_route
from contracts.envelope import Event
from contracts.facts import (
    AlertRaised,
    DeploymentChanged,
    OrderRefused,
    QuarantineLifted,
    RollbackOrdered,
    RollbackStarted,
)
from contracts.routes import Route
from contracts.vocabulary import Target

quarantine_app = typer.Typer(
    help="List targets that a rollback quarantined, and lift a quarantine.", no_args_is_help=True
)
WAIT_S = 15.0
POLL_S = 0.05


@dataclass(frozen=True)
class Quarantined:
    """A target that may take no traffic, with start, mode and reason of its rollback; None if the log does not say."""

    target: Target
    since: datetime | None = None
    mode: str | None = None
    reason: str | None = None

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        since = self.since.isoformat() if self.since is not None else None
        return {
            **self.target.model_dump(),
            "name": str(self.target),
            "since": since,
            "mode": self.mode,
            "reason": self.reason,
        }


@quarantine_app.command("list")
def list_command(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="Only targets of this model.")] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """List quarantined targets."""
    if model is not None:
        check_model(model)
    quarantined = asyncio.run(_list(find_stack(state), model))
    if as_json:
        show_json([entry.as_data() for entry in quarantined])
        return
    if not quarantined:
        show_line("no quarantined targets" if model is None else f"no quarantined targets of {model}")
        return
    rows = [
        (
            entry.target,
            f"{entry.since:%Y-%m-%d %H:%M:%S}" if entry.since else "-",
            entry.mode or "-",
            entry.reason or "-",
        )
        for entry in quarantined
    ]
    show_table(("quarantined", "since", "rollback", "reason"), rows)


async def _list(stack: StackAddress, model: str | None) -> list[Quarantined]:
    async with connected(stack) as client:
        js = client.jetstream(timeout=10)
        records = await RecordsOfModels(js, "routes", Route).all()
        if model is not None and model not in records:
            await require_model(js, model)
        routes = [route for name, route in sorted(records.items()) if model in (None, name)]
        quarantined = [target for route in routes for target in route.quarantined]
        if not quarantined:
            return []
        where = EventFilter(("rollback.started", "deployment.changed", "alert.raised"), with_orders=True)
        named = {target.model for target in quarantined}
        events = {each: [logged.event for logged in await read_history(js, each, where)] for each in named}
    return [explain(target, events[target.model]) for target in quarantined]


def explain(target: Target, events: Iterable[Event[Any]]) -> Quarantined:
    """Return when a target was quarantined: at the last route that quarantines it and follows one that does not."""
    since: datetime | None = None
    mode = reason = alerted = None
    reasons: dict[str, str] = {}
    for event in events:
        if isinstance(event.data, RollbackOrdered):
            reasons[event.id] = event.data.reason
        elif isinstance(event.data, AlertRaised) and event.data.target == target:
            alerted = event.data.message
        elif isinstance(event.data, RollbackStarted) and event.data.failed == target:
            mode = event.data.mode
            reason = alerted if mode == "automatic" else reasons.get(event.data.cause_id)
        elif isinstance(event.data, DeploymentChanged) and event.subject == target.model:
            is_quarantined = event.data.route.is_quarantined(target)
            since = (since or event.data.at) if is_quarantined else None
    return Quarantined(target, since, mode, reason)


@quarantine_app.command("lift")
def lift_command(
    *,
    what: Annotated[
        str,
        typer.Argument(
            metavar="MODEL.vN.variant|MODEL@vN", help="The target, or its version if only one variant is quarantined."
        ),
    ],
    reason: ReasonOption,
    expires: ExpiresOption = EXPIRES,
    timeout: Annotated[float, typer.Option(help="Seconds to wait until the quarantine is lifted.", min=0.1)] = WAIT_S,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Allow a quarantined target to be promoted again. This does not route traffic to it."""
    model_named(what)
    target, epoch = asyncio.run(_lift(find_stack(state), what, reason, expires_at(expires), timeout))
    if as_json:
        show_json({"target": str(target), "epoch": epoch, "quarantined": False})
    else:
        show_line(f"{target} is not quarantined any more (epoch {epoch}); it takes no traffic until it is promoted")


def model_named(what: str) -> str:
    """Return the model that `MODEL.vN.variant` or `MODEL@vN` names.

    Raises:
        CommandError: the text has another form.
    """
    name = parse_name(what)
    if name.version is None:
        raise CommandError(f"the target {what!r} is not valid: write MODEL.vN.variant or MODEL@vN", Exit.USAGE)
    return name.model


def pick_quarantined(route: Route | None, what: str) -> Target:
    """Return the quarantined target that a target or version names.

    Raises:
        CommandError: it is not quarantined, or several variants of the version are.
    """
    quarantined = route.quarantined if route is not None else ()
    name = parse_name(what)
    matching = [each for each in quarantined if name.target in (None, each) and each.version == name.version]
    if len(matching) > 1:
        raise CommandError(
            f"{what} names several targets: {', '.join(map(str, matching))}; give one of them", Exit.USAGE
        )
    if not matching:
        raise CommandError(f"{what} is not quarantined; see `slipway quarantine list`")
    return matching[0]


async def _lift(stack: StackAddress, what: str, reason: str, until: datetime, wait_s: float) -> tuple[Target, int]:
    async with connected(stack) as client:
        js = client.jetstream(timeout=10)
        for attempt in range(1, EPOCH_TRIES + 1):
            route = await read_route(js, model_named(what))
            if route is None:
                await require_model(js, model_named(what))
            target = pick_quarantined(route, what)
            lifted = QuarantineLifted(reason=reason, target=target, expires_at=until, epoch=route.epoch if route else 0)
            event = order(sender_of(stack), target.model, None, lifted)
            after = await publish_order(js, event)
            answer = await await_route(
                js,
                event,
                after,
                wait_s,
                target,
                is_done=lambda route, target: not route.is_quarantined(target),
                left=f"{target} is still quarantined",
            )
            if isinstance(answer, int):
                return target, answer
            if answer.code != "stale_epoch" or attempt == EPOCH_TRIES:
                raise refused_error(answer)
    raise AssertionError  # the loop ends by return or raise


async def await_route(
    js: JetStreamContext,
    event: Event[Any],
    after: int,
    wait_s: float,
    target: Target,
    *,
    is_done: Callable[[Route, Target], bool],
    left: str,
) -> int | OrderRefused:
    """Return the epoch of the first route that an order has changed as it asks, or the answer that refuses it.

    Args:
        js: The bus.
        event: The order.
        after: The sequence number of the log before it.
        wait_s: How long to wait.
        target: What the order is about.
        is_done: Whether a route is as ordered.
        left: What has not changed, for the error.
    """
    deadline = asyncio.get_running_loop().time() + wait_s
    while asyncio.get_running_loop().time() < deadline:
        route = await read_route(js, event.subject)
        if route is not None and is_done(route, target):
            return route.epoch
        answer = await refusal(js, event, after)
        if answer is not None:
            return answer
        await asyncio.sleep(POLL_S)
    raise CommandError(
        f"the order {event.id} was published, but {left} after {wait_s:g} s; "
        "see `slipway ps` for the rollback-controller, and `slipway events`"
    )
