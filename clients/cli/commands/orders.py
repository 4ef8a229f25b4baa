"""`slipway approve`, `cancel` and `policy`: orders of an operator, and how orders are published and answered."""

import asyncio
import contextlib
from datetime import datetime
from typing import Annotated, Any

import typer
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from clients.cli.connection import (
    JsonOption,
    StackAddress,
    StateOption,
    connected,
    find_stack,
    sender_of,
)
from clients.cli.last_events import answer_to, last_sequences
from clients.cli.names import parse_name
from clients.cli.output import CommandError, Exit, show_json, show_line
from clients.cli.parsing import parse_duration
from clients.cli.recorded_releases import Release, pick, recorded_releases
from clients.cli.resolving import ReleaseArgument, advice, resolve
from clients.cli.serving import read_route
from contracts.envelope import Event
from contracts.facts import ApprovalGranted, Fact, OrderAccepted, OrderRefused, ReleaseCancelled
from contracts.facts.progress import ReleaseProgress
from contracts.limits import too_large
from contracts.services import EVENTS, ORDERS, durable_name
from contracts.vocabulary import Environment
from decisions.rollback.orders import LONGEST_ORDER, ORDER_AGE
from shared.messaging.orders import new_order
from shared.messaging.publishing import publish_event
from shared.runtime.clock import SystemClock

ReasonOption = Annotated[str, typer.Option("--reason", help="Reason, kept in the record.")]
ExpiresOption = Annotated[
    str,
    typer.Option("--expires", help="How long the order is valid, at most 24h; an order received later is refused."),
]
EXPIRES = "15m"
ANSWER_S, ANSWER_TRY_S = 15.0, 0.1
EPOCH_TRIES = 3
"""How often an order is published again because the route changed after it was read."""


def approve(
    what: ReleaseArgument,
    reason: ReasonOption = "",
    expires: ExpiresOption = EXPIRES,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Approve a release that waits for approval; the approval names the digest of the registered version."""
    stack = find_stack(state)
    asyncio.run(_approve(stack, what, reason, expires_at(expires), as_json))


async def _approve(stack: StackAddress, what: str, reason: str, until: datetime, as_json: bool) -> None:
    async with connected(stack) as client:
        js = client.jetstream(timeout=10)
        opened = await open_release(js, what)
        release = opened.progress
        if opened.asked is None:
            raise CommandError(f"{release.name} does not wait for an approval; see `slipway status {release.model}`")
        fact = ApprovalGranted(
            release_id=str(release.release_id),
            manifest_digest=opened.asked,
            reason=reason,
            expires_at=until,
            epoch=await epoch_of(js, release.model),
        )
        published = await order_and_confirm(js, stack, release, fact)
    show_result(
        as_json,
        {"release_id": fact.release_id, "manifest_digest": fact.manifest_digest},
        f"approved {release.name}{_count_after(opened, published.sender)}",
    )


def _count_after(release: Release, sender: str) -> str:
    """Return how many have approved of how many, if more than one must."""
    needed = release.opened.policy.approvals.count if release.opened is not None else 1
    given = len({*release.progress.approvers, sender})
    return f"; {given} of {needed} approvals are there" if needed > 1 else ""


def cancel(
    what: ReleaseArgument,
    reason: ReasonOption = "cancelled from the command line",
    expires: ExpiresOption = EXPIRES,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Cancel a release that is in progress."""
    stack = find_stack(state)
    asyncio.run(_cancel(stack, what, reason, expires_at(expires), as_json))


async def _cancel(stack: StackAddress, what: str, reason: str, until: datetime, as_json: bool) -> None:
    async with connected(stack) as client:
        js = client.jetstream(timeout=10)
        release = (await open_release(js, what)).progress
        release_id = str(release.release_id)
        fact = ReleaseCancelled(release_id=release_id, reason=reason, expires_at=until)
        await order_and_confirm(js, stack, release, fact)
    show_result(
        as_json,
        {"release_id": release_id},
        f"ordered the cancellation of {release.name}; see `slipway status {release.model}`",
    )


async def open_release(js: JetStreamContext, what: str) -> Release:
    """Return the release in progress that `what` names.

    Raises:
        CommandError: there is none.
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
    """Return when an order that is published now expires.

    Raises:
        CommandError: the text is not a valid duration, or longer than the limit for orders.
    """
    span = parse_duration(text)
    if span > LONGEST_ORDER:
        raise CommandError(f"--expires {text} is too long: the limit is 24h", Exit.USAGE)
    return SystemClock().now() + span


async def epoch_of(js: JetStreamContext, model: str, environment: Environment = "production") -> int:
    """Return the current epoch of a route, to put into an order; 0 if there is no route."""
    route = await read_route(js, model, environment)
    return route.epoch if route is not None else 0


async def order_and_confirm(
    js: JetStreamContext, stack: StackAddress, release: ReleaseProgress, fact: Fact
) -> Event[Any]:
    """Publish an order about a release; return it once the registry has handled it.

    Raises:
        CommandError: it was refused, or not handled within a short time.
    """
    published = order(sender_of(stack), release.model, str(release.release_id), fact)
    await raise_if_refused(js, published, await publish_order(js, published))
    return published


async def publish_order(js: JetStreamContext, published: Event[Any]) -> int:
    """Publish an order; return the last sequence of events before it: its answer comes later."""
    after = (await last_sequences(js))[EVENTS]
    await publish_event(js, published, random_id=True)
    return after


async def refusal(js: JetStreamContext, published: Event[Any], after: int) -> OrderRefused | None:
    """Return the refusal of an order after a sequence, whatever else is refused; None while there is none."""
    event = await answer_to(js, OrderRefused, published.subject, published.id, after)
    return event.data if event is not None else None


async def raise_if_refused(js: JetStreamContext, published: Event[Any], after: int, wait_s: float = ANSWER_S) -> None:
    """Raise CommandError if an order is refused, or not handled, within a short time.

    An order that changes nothing has no answer, so the wait ends when the registry has acknowledged the message.
    """
    acknowledged = await _await_acknowledgement(js, published, wait_s)
    answer = await refusal(js, published, after)
    if answer is not None:
        raise refused_error(answer)
    if acknowledged or await answer_to(js, OrderAccepted, published.subject, published.id, after) is not None:
        return
    expires = published.data.expires_at or published.time + ORDER_AGE
    raise CommandError(
        f"the order {published.id} was published, but no registry has handled it within {wait_s:g} s: it is carried "
        f"out if one does before {expires:%Y-%m-%d %H:%M:%S} UTC; see `slipway ps` for the registry, and "
        f"`slipway status {published.subject}`"
    )


async def _await_acknowledgement(js: JetStreamContext, published: Event[Any], wait_s: float) -> bool:
    """Return whether the registry acknowledged an order, and all before it, within a time."""
    deadline = asyncio.get_running_loop().time() + wait_s
    while asyncio.get_running_loop().time() < deadline:
        if await _acknowledged(js, published):
            return True
        await asyncio.sleep(ANSWER_TRY_S)
    return False


async def await_answer(js: JetStreamContext, published: Event[Any], after: int, wait_s: float) -> OrderAccepted:
    """Return the answer to an order that is answered in any case, also where it changes nothing.

    Raises:
        CommandError: it was refused, or not answered within the time.
    """
    deadline = asyncio.get_running_loop().time() + wait_s
    while asyncio.get_running_loop().time() < deadline:
        accepted = await answer_to(js, OrderAccepted, published.subject, published.id, after)
        if accepted is not None:
            answer: OrderAccepted = accepted.data
            return answer
        refused = await refusal(js, published, after)
        if refused is not None:
            raise refused_error(refused)
        await asyncio.sleep(ANSWER_TRY_S)
    raise CommandError(
        f"the order {published.id} was published and not answered within {wait_s:g} s: see `slipway ps` for the "
        "service that answers it"
    )


def refused_error(answer: OrderRefused) -> CommandError:
    """Return the error that a refused order ends a command with: its code is that of the service."""
    sentence = f"the order was refused: {answer.code}: {answer.reason}"
    return CommandError(sentence, name=answer.code)


async def _acknowledged(js: JetStreamContext, published: Event[Any]) -> bool:
    durable = durable_name("registry", type(published.data))
    with contextlib.suppress(NotFoundError):
        info = await js.consumer_info(ORDERS, durable)
        return not info.num_pending and not info.num_ack_pending
    return False


def order(sender: str, model: str, release_id: str | None, fact: Fact) -> Event[Any]:
    """Return the event of an order by the sender; without a release, its own id is the correlation id.

    Raises:
        CommandError: one of its texts is too long; the message is the one that services answer with.
    """
    excess = too_large(fact)
    if excess is not None:
        raise CommandError(excess.sentence, Exit.USAGE)
    return new_order(sender, model, fact, now=SystemClock().now(), release_id=release_id)


def show_result(as_json: bool, data: dict[str, Any], line: str) -> None:
    """Print what came of an order: as JSON, or as a line."""
    if as_json:
        show_json(data)
    else:
        show_line(line)
