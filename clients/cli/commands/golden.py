"""`slipway golden`: what golden prompts showed last of the version that serves, and of the one behind it."""

from typing import Annotated, Any

import typer
from nats.js import JetStreamContext

from clients.cli.connection import ask_bus, find_stack
from clients.cli.events.last_events import last_event
from clients.cli.options import JsonOption, StateOption
from clients.cli.output import CommandError, show_json, show_line, show_table
from clients.cli.parsing import check_model
from clients.cli.releases.resolving import require_model
from clients.cli.releases.serving import read_route
from contracts.envelope import Event, plain
from contracts.facts import GoldenChecked
from contracts.vocabulary import Target
from decisions.evidence.golden import AGREEING

COLUMNS = ("prompt", "serves", "behind", "the answer")
_VERDICTS = {True: "pass", False: "fail", None: "-"}


def golden(
    *,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model.")],
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the newest results of a model's golden prompts: of the last check that differed from the one before."""
    check_model(model)
    event, active = ask_bus(find_stack(state), lambda js: _last(js, model))
    if event is None:
        reason = (
            f"no golden prompt of {model} was asked yet, as far as the event log goes; they are asked if the policy of "
            "the version that serves declares any (`slipway policy show`)"
        )
        raise CommandError(reason)
    if as_json:
        show_json(plain(event)["data"])
        return
    show_table(COLUMNS, rows_of(event.data))
    show_line(f"{event.data.checked_at:%Y-%m-%d %H:%M:%S} UTC  {event.data.message}")
    show_line(conclusion(event.data, active))


async def _last(js: JetStreamContext, model: str) -> tuple[Event[Any] | None, Target | None]:
    """Return the last event, and the target that serves now; None without one."""
    route = await read_route(js, model)
    if route is None:
        await require_model(js, model)
    active = route.active.target if route is not None and route.active is not None else None
    return await last_event(js, GoldenChecked, model), active


def rows_of(checked: GoldenChecked) -> list[tuple[str, ...]]:
    """Return a row of cells for each prompt; those that only the version that serves fails come first."""
    outcomes = sorted(checked.outcomes, key=lambda outcome: not outcome.has_fallen)
    return [
        (outcome.name, _VERDICTS[outcome.target], _VERDICTS[outcome.other], outcome.reason or "-")
        for outcome in outcomes
    ]


def conclusion(checked: GoldenChecked, active: Target | None) -> str:
    """Return what follows from a check, in a sentence; `active` is the target that serves now."""
    if checked.target != active:
        return f"{checked.target} does not serve any more."
    if checked.agreeing >= AGREEING:
        return f"There is an alert about {checked.target}."
    if checked.agreeing:
        return "A second check in a row that shows it raises an alert."
    return "There is no alert."
