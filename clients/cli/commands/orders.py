"""Orders of operators, and their answers."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, TypeVar

import typer
from nats.js import JetStreamContext

from clients.cli.connection import StackAddress, on_bus, sender_of
from clients.cli.events.last_events import answer_to, last_sequences
from clients.cli.output import CommandError, Exit
from clients.cli.parsing import parse_duration
from clients.cli.releases.names import parse_name
from clients.cli.releases.recorded_releases import Release, pick, recorded_releases
from clients.cli.releases.resolving import advice, require_model, resolve
from clients.cli.releases.serving import read_route
from contracts.envelope import Event
from contracts.facts import Fact, OrderAccepted, OrderRefused
from contracts.limits import too_large
from contracts.routes import Route
from contracts.services import EVENTS
from decisions.rollback.orders import LONGEST_ORDER, ORDER_AGE
from shared.messaging.orders import new_order
from shared.messaging.publishing import publish_event
from shared.runtime.clock import SystemClock

F = TypeVar("F", bound=Fact)
ReasonOption = Annotated[str, typer.Option("--reason", help="Reason, kept in the record.")]
ExpiresOption = Annotated[
    str,
    typer.Option("--expires", help="How long the order is valid, at most 24h; an order received later is refused."),
]
EXPIRES = "15m"
ANSWER_S, ANSWER_TRY_S = 15.0, 0.1
EPOCH_TRIES = 3
"""Maximum number of tries of an order while the route changes."""


class UnansweredError(CommandError):
    """No service answered a published order in time: the order may still be carried out."""


def order_release(stack: StackAddress, what: str, fact_for: Callable[[Release, Route | None], F]) -> tuple[Release, F]:
    """Publish an order for a release in progress; return the release before the order, and the order.

    Args:
        stack: The stack of the release.
        what: Name of the release.
        fact_for: Returns the order for the release and the route of its model.

    Raises:
        CommandError: No such release is in progress; the order is refused, or not answered in time.
    """

    async def give() -> tuple[Release, F]:
        async with on_bus(stack) as js:
            release = await open_release(js, what)
            progress = release.progress
            fact = fact_for(release, await read_route(js, progress.model))
            await give_order(js, stack, progress.model, fact, release_id=progress.release_id)
            return release, fact

    return asyncio.run(give())


async def open_release(js: JetStreamContext, what: str) -> Release:
    """Return the named release in progress.

    Raises:
        CommandError: No such release is in progress.
    """
    name = await resolve(js, parse_name(what))
    releases = await recorded_releases(js, name)
    release = pick((each for each in releases if each.progress.outcome is None), name)
    if release is None:
        ended = pick(releases, name)
        about = f"no release of {what} is in progress"
        if ended is not None:
            about = f"the release of {ended.progress.name} is not in progress, it ended as {ended.progress.outcome}"
        raise CommandError(f"{about}{await advice(js, name.model or None, 'slipway status')}")
    return release


def expires_at(text: str) -> datetime:
    """Return the expiry of an order that is published now.

    Raises:
        CommandError: The text is not a valid duration, or longer than the limit of orders.
    """
    span = parse_duration(text)
    if span > LONGEST_ORDER:
        raise CommandError(f"--expires {text} is too long: the limit is 24h", Exit.USAGE)
    return SystemClock().now() + span


async def give_order(
    js: JetStreamContext,
    stack: StackAddress,
    model: str,
    fact: Fact,
    *,
    release_id: str | None = None,
    wait_s: float = ANSWER_S,
) -> OrderAccepted:
    """Publish an order and return its answer, even if the order changes nothing.

    Raises:
        CommandError: The order was refused, or not answered within `wait_s`.
    """
    published = order(sender_of(stack), model, release_id, fact)
    return await await_answer(js, published, await publish_order(js, published), wait_s)


async def give_for_route(
    js: JetStreamContext, stack: StackAddress, model: str, fact_for: Callable[[Route | None], Fact], wait_s: float
) -> OrderAccepted:
    """Publish an order for the current route; repeat it if the route changes after the read.

    Raises:
        CommandError: The model is unknown; the order was refused, or not answered within `wait_s`.
    """
    for attempt in range(1, EPOCH_TRIES + 1):
        route = await read_route(js, model)
        if route is None:
            await require_model(js, model)
        try:
            return await give_order(js, stack, model, fact_for(route), wait_s=wait_s)
        except CommandError as error:
            if error.name != "stale_epoch" or attempt == EPOCH_TRIES:
                raise
    raise AssertionError  # the loop ends by return or raise


async def publish_order(js: JetStreamContext, published: Event[Any]) -> int:
    """Publish an order; return the last sequence of the event log before it."""
    after = (await last_sequences(js))[EVENTS]
    await publish_event(js, published, random_id=True)
    return after


async def await_answer(js: JetStreamContext, published: Event[Any], after: int, wait_s: float) -> OrderAccepted:
    """Return the answer to an order after a sequence of the event log.

    Raises:
        CommandError: The order was refused, or not answered within `wait_s`.
    """
    deadline = asyncio.get_running_loop().time() + wait_s
    while True:
        for kind in (OrderAccepted, OrderRefused):
            event = await answer_to(js, kind, published.subject, published.id, after)
            if event is not None and isinstance(event.data, OrderRefused):
                raise refused_error(event.data)
            if event is not None:
                answer: OrderAccepted = event.data
                return answer
        if asyncio.get_running_loop().time() >= deadline:
            break
        await asyncio.sleep(ANSWER_TRY_S)
    expires = getattr(published.data, "expires_at", None)
    if expires is None or expires <= published.time:  # what ends a drill at once is valid as long as any order
        expires = published.time + ORDER_AGE
    raise UnansweredError(
        f"the order {published.id} was published and not answered within {wait_s:g} s: it is carried out if its "
        f"service handles it before {expires:%Y-%m-%d %H:%M:%S} UTC; see `slipway ps` for the services, and "
        f"`slipway events`"
    )


def refused_error(answer: OrderRefused) -> CommandError:
    """Return the error of a refused order, with the service's code."""
    sentence = f"the order was refused: {answer.code}: {answer.reason}"
    return CommandError(sentence, name=answer.code)


def order(sender: str, model: str, release_id: str | None, fact: Fact) -> Event[Any]:
    """Return the event of an order; without a release, the event's id is the correlation id.

    Raises:
        CommandError: A text of the order is too long.
    """
    excess = too_large(fact)
    if excess is not None:
        raise CommandError(excess.sentence, Exit.USAGE)
    return new_order(sender, model, fact, now=SystemClock().now(), release_id=release_id)
