"""`slipway quarantine lift`: allow a target that a rollback quarantined to be promoted again."""

from typing import Annotated

import typer

from clients.cli.commands.orders import (
    ANSWER_S,
    EXPIRES,
    ExpiresOption,
    ReasonOption,
    expires_at,
    give_for_route,
)
from clients.cli.connection import ask_bus, find_stack
from clients.cli.options import JsonOption, StateOption
from clients.cli.output import CommandError, Exit, show_result
from clients.cli.releases.names import parse_name
from contracts.facts import QuarantineLifted
from contracts.routes import Route
from contracts.vocabulary import Target

quarantine_app = typer.Typer(
    help="Lift a quarantine; `slipway routes` lists the targets that have one.", no_args_is_help=True
)


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
    model, stack, until = model_named(what), find_stack(state), expires_at(expires)

    def lifted(route: Route | None) -> QuarantineLifted:
        target = pick_quarantined(route, what)
        return QuarantineLifted(reason=reason, target=target, expires_at=until, epoch=route.epoch if route else 0)

    answer = ask_bus(stack, lambda js: give_for_route(js, stack, model, lifted, timeout))
    target, epoch = Target.model_validate(answer.details["target"]), answer.details["epoch"]
    line = f"{target} is not quarantined any more (epoch {epoch}); it takes no traffic until it is promoted"
    show_result({"target": str(target), "epoch": epoch, "quarantined": False}, line, as_json=as_json)


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
        raise CommandError(f"{what} is not quarantined; see `slipway routes`")
    return matching[0]
