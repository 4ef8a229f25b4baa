"""`slipway erase`: text that a version was measured on is removed for good; its digests and figures stay."""

import asyncio
from typing import Annotated

import typer

from clients.cli.commands.orders import EXPIRES, ExpiresOption, ReasonOption, expires_at, order, refused_error
from clients.cli.connection import JsonOption, StackAddress, StateOption, connected, find_stack, sender_of
from clients.cli.event_log import answer_to, last_sequences
from clients.cli.output import CommandError, show_json, show_line
from clients.cli.resolving import VersionArgument, find_version_name
from contracts.facts import ErasureOrdered, OrderAccepted, OrderRefused
from contracts.services import EVENTS
from shared.messaging.publishing import publish_event

WAIT_S, POLL_S = 30.0, 0.2


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

    What else used the same file loses it as well. It takes an administrator's credential.
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
    async with connected(stack) as client:
        js = client.jetstream(timeout=10)
        published = order(sender_of(stack), model, None, fact)
        after = (await last_sequences(js))[EVENTS]
        await publish_event(js, published, random_id=True)
        deadline = asyncio.get_running_loop().time() + WAIT_S
        while asyncio.get_running_loop().time() < deadline:
            accepted = await answer_to(js, OrderAccepted, model, published.id, after)
            if accepted is not None:
                digests: list[str] = accepted.data.details.get("digests", [])
                return digests
            refused = await answer_to(js, OrderRefused, model, published.id, after)
            if refused is not None:
                raise refused_error(refused.data)
            await asyncio.sleep(POLL_S)
    raise CommandError(f"the order {published.id} was published and not answered within {WAIT_S:g} s; see `slipway ps`")
