"""`slipway quarantine`: list targets that were quarantined by a rollback, and lift a quarantine."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import typer

from clients.cli.commands.orders import (
    ANSWER_S,
    EXPIRES,
    ExpiresOption,
    ReasonOption,
    expires_at,
    give_for_route,
)
from clients.cli.connection import StackAddress, find_stack, on_bus
from clients.cli.events.event_log import EventFilter, read_history
from clients.cli.options import JsonOption, StateOption
from clients.cli.output import CommandError, Exit, show_json, show_line, show_table
from clients.cli.parsing import check_model
from clients.cli.reading import RecordsOfModels
from clients.cli.releases.names import parse_name
from clients.cli.releases.resolving import require_model
from contracts.envelope import Event
from contracts.facts import (
    AlertRaised,
    DeploymentChanged,
    QuarantineLifted,
    RollbackOrdered,
    RollbackStarted,
)
from contracts.routes import Route
from contracts.vocabulary import Target

quarantine_app = typer.Typer(
    help="List targets that a rollback quarantined, and lift a quarantine.", no_args_is_help=True
)


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
    async with on_bus(stack) as js:
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
    timeout: Annotated[float, typer.Option(help="Seconds to wait until the quarantine is lifted.", min=0.1)] = ANSWER_S,
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
    def lifted(route: Route | None) -> QuarantineLifted:
        target = pick_quarantined(route, what)
        return QuarantineLifted(reason=reason, target=target, expires_at=until, epoch=route.epoch if route else 0)

    async with on_bus(stack) as js:
        answer = await give_for_route(js, stack, model_named(what), lifted, wait_s)
    return Target.model_validate(answer.details["target"]), answer.details["epoch"]
