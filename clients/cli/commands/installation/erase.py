"""`slipway erase`: remove the text that a version was measured on; digests and figures stay."""

from typing import Annotated

import typer

from clients.cli.commands.orders import (
    EXPIRES,
    ExpiresOption,
    ReasonOption,
    expires_at,
    give_order,
)
from clients.cli.connection import ask_bus, find_stack
from clients.cli.options import JsonOption, StateOption
from clients.cli.output import show_result
from clients.cli.releases.resolving import VersionArgument, find_version_name
from contracts.facts import ErasureOrdered

WAIT_S = 30.0


def erase(
    what: VersionArgument,
    *,
    reason: ReasonOption,
    evaluation: Annotated[
        bool, typer.Option("--evaluation", help="Erase its evaluation set instead of the held-out text.")
    ] = False,
    expires: ExpiresOption = EXPIRES,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Erase the held-out text of a version for good; `slipway verify` then reports `erased`.

    Other versions with the same file lose it as well. It takes an administrator's credential.
    """
    stack = find_stack(state)
    model, version = find_version_name(stack, what)
    fact = ErasureOrdered(
        reason=reason,
        version=version,
        kind="evaluation" if evaluation else "held-out",
        expires_at=expires_at(expires),
    )
    answer = ask_bus(stack, lambda js: give_order(js, stack, model, fact, wait_s=WAIT_S))
    digests: list[str] = answer.details.get("digests", [])
    line = f"{model}@v{version} has no {fact.kind} text"
    if digests:
        line = f"erased the {fact.kind} text of {model}@v{version}: {', '.join(digests)}"
    show_result({"target": what, "kind": fact.kind, "digests": digests}, line, as_json=as_json)
