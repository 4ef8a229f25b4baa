"""`slipway golden`: what golden prompts showed last of the version that serves, and of the one behind it."""

import asyncio
from typing import Annotated, Any

import typer

from clients.cli.completion import complete_models
from clients.cli.connection import JsonOption, StackAddress, StateOption, connected, find_stack
from clients.cli.event_log import last_event
from clients.cli.output import CommandError, show_json, show_line, show_table
from clients.cli.parsing import check_model
from contracts.envelope import Event, plain
from contracts.facts import GoldenChecked

COLUMNS = ("prompt", "serves", "behind", "the answer")
_VERDICTS = {True: "pass", False: "fail", None: "-"}


def golden(
    *,
    model: Annotated[str, typer.Argument(metavar="MODEL", autocompletion=complete_models)],
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what golden prompts showed last of a model, by the last event that had something new."""
    check_model(model)
    event = asyncio.run(_last(find_stack(state), model))
    if event is None:
        reason = (
            f"no golden prompt of {model} was asked yet, as far as the event log goes: the policy of the version that "
            "serves declares them (`slipway policy show`)"
        )
        raise CommandError(reason)
    if as_json:
        show_json(plain(event)["data"])
        return
    show_table(COLUMNS, rows_of(event.data))
    show_line(f"{event.data.checked_at:%Y-%m-%d %H:%M:%S} UTC  {event.data.message}")
    show_line(conclusion(event.data))


async def _last(stack: StackAddress, model: str) -> Event[Any] | None:
    async with connected(stack) as client:
        return await last_event(client.jetstream(timeout=10), GoldenChecked, model)


def rows_of(checked: GoldenChecked) -> list[tuple[str, ...]]:
    """Return a row of cells for each prompt; those that only the version that serves fails come first."""
    outcomes = sorted(checked.outcomes, key=lambda outcome: not outcome.has_fallen)
    return [
        (outcome.name, _VERDICTS[outcome.target], _VERDICTS[outcome.other], outcome.reason or "-")
        for outcome in outcomes
    ]


def conclusion(checked: GoldenChecked) -> str:
    """Return what follows from a check, in a sentence."""
    if checked.confirms:
        return f"Alerts of quality triggers about {checked.target} are confirmed: automatic ones roll back."
    if checked.agreeing:
        return "A second check in a row that shows it confirms alerts of quality triggers."
    return "This confirms no alert."
