"""`slipway erase`: text that a version was measured on is removed for good; its digests and figures stay."""

import asyncio
from typing import Annotated

import typer

from clients.cli.commands.orders import (
    EXPIRES,
    ExpiresOption,
    ReasonOption,
    expires_at,
    give_order,
)
from clients.cli.connection import StackAddress, find_stack, on_bus
from clients.cli.options import JsonOption, StateOption
from clients.cli.output import show_json, show_line
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
    """Erase the held-out text that a version was measured on, for good; `slipway verify` then says `erased`.

    Other versions that were measured on the same file lose it as well. It takes an administrator's credential.
    """
    stack = find_stack(state)
    model, version = find_version_name(stack, what)
    fact = ErasureOrdered(
        reason=reason,
        version=version,
        kind="evaluation" if evaluation else "held-out",
        expires_at=expires_at(expires),
    )
    digests = asyncio.run(_erase(stack, model, fact))
    if as_json:
        show_json({"target": what, "kind": fact.kind, "digests": digests})
    elif digests:
        show_line(f"erased the {fact.kind} text of {model}@v{version}: {', '.join(digests)}")
    else:
        show_line(f"{model}@v{version} has no {fact.kind} text")


async def _erase(stack: StackAddress, model: str, fact: ErasureOrdered) -> list[str]:
    async with on_bus(stack) as js:
        answer = await give_order(js, stack, model, fact, wait_s=WAIT_S)
    digests: list[str] = answer.details.get("digests", [])
    return digests
