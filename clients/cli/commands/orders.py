"""Orders of people: approve, cancel, and the stored policy of a model."""

import asyncio
import contextlib
import getpass
import json
import uuid
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from pydantic import ValidationError

from clients.cli.commands.status import model_of, pick
from clients.cli.connection import JsonOption, Place, StateOption, connected, find_place
from clients.cli.event_log import last_said, read_history
from clients.cli.output import Exit, Refused, show_json, show_line
from clients.cli.parsing import parse_span
from clients.cli.serving import read_route
from clients.cli.settings import CliSettings
from clients.cli.views.release import Road, join, project
from contracts.envelope import Event
from contracts.facts import ApprovalGranted, ApprovalRequested, Fact, OrderRefused, ReleaseCancelled
from contracts.limits import too_large
from contracts.orders import LONGEST_ORDER
from contracts.policy import ReleasePolicy
from contracts.services import ORDERS, durable_name
from contracts.vocabulary import Environment
from shared.messaging.bus import publish_event
from shared.runtime.clock import SystemClock
from shared.storage.kv import Bucket, Conflict

ReasonOption = Annotated[str, typer.Option("--reason", help="Why; kept in the record.")]
ExpiresOption = Annotated[
    str, typer.Option("--expires", help="How long the order counts, 30s to 24h: one that is heard later is refused.")
]
EXPIRES = "15m"
ANSWER_S, ANSWER_TRY_S = 3.0, 0.1
EPOCH_TRIES = 3
"""How often an order is given anew when the route changed between reading it and hearing the order."""
policy_app = typer.Typer(help="Show or set the stored release policy of a model.", no_args_is_help=True)


def actor() -> str:
    """Say who gives an order."""
    return CliSettings().user or getpass.getuser()


def approve(
    what: Annotated[str, typer.Argument(metavar="MODEL|RELEASE")],
    reason: ReasonOption = "",
    expires: ExpiresOption = EXPIRES,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Approve a release that waits for a person; the approval names exactly what was registered."""
    place = find_place(state)
    asyncio.run(_approve(place, what, reason, expires_at(expires), as_json))


async def _approve(place: Place, what: str, reason: str, until: datetime, as_json: bool) -> None:
    async with connected(place) as client:
        js = client.jetstream(timeout=10)
        said = [one.event for one in await read_history(js, model_of(what))]
        road = _going_on(join(project(said)), what)
        awaited = [
            event.data
            for event in said
            if isinstance(event.data, ApprovalRequested) and event.data.release_id == road.release_id
        ]
        if not awaited:
            raise Refused(f"{road.name} does not wait for an approval; see `slipway status {road.model}`")
        fact = ApprovalGranted(
            release_id=awaited[-1].release_id,
            manifest_digest=awaited[-1].manifest_digest,
            actor=actor(),
            reason=reason,
            expires_at=until,
            epoch=await epoch_of(js, road.model),
        )
        given = order(road.model, awaited[-1].release_id, fact)
        await publish_event(js, given)
        await raise_if_refused(js, given)
    _say(as_json, {"release_id": fact.release_id, "manifest_digest": fact.manifest_digest}, f"approved {road.name}")


def cancel(
    what: Annotated[str, typer.Argument(metavar="MODEL|RELEASE")],
    reason: ReasonOption = "cancelled from the command line",
    expires: ExpiresOption = EXPIRES,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stop a release that has not ended yet."""
    place = find_place(state)
    asyncio.run(_cancel(place, what, reason, expires_at(expires), as_json))


async def _cancel(place: Place, what: str, reason: str, until: datetime, as_json: bool) -> None:
    async with connected(place) as client:
        js = client.jetstream(timeout=10)
        said = [one.event for one in await read_history(js, model_of(what))]
        road = _going_on(join(project(said)), what)
        release = str(road.release_id)
        fact = ReleaseCancelled(release_id=release, actor=actor(), reason=reason, expires_at=until)
        given = order(road.model, release, fact)
        await publish_event(js, given)
        await raise_if_refused(js, given)
    _say(as_json, {"release_id": release}, f"ordered to cancel {road.name}; see `slipway status {road.model}`")


def _going_on(roads: dict[str, Road], what: str) -> Road:
    """Return the release that a word means, if it has not ended."""
    road = pick({key: one for key, one in roads.items() if one.outcome is None}, what)
    if road is None or road.release_id is None:
        raise Refused(f"no release of {what} is under way; see `slipway status`")
    return road


def expires_at(text: str) -> datetime:
    """Return until when an order counts that is given now.

    Raises:
        Refused: it is no span of time, or longer than any order counts.
    """
    span = parse_span(text)
    if span > LONGEST_ORDER:
        raise Refused(f"--expires {text} is longer than any order counts; the limit is 24h", Exit.USAGE)
    return SystemClock().now() + span


async def epoch_of(js: JetStreamContext, model: str, environment: Environment = "production") -> int:
    """Return the epoch of a route, which an order that is given now means; 0 where there is none."""
    route = await read_route(js, model, environment)
    return route.epoch if route is not None else 0


async def refusal(js: JetStreamContext, given: Event[Any]) -> OrderRefused | None:
    """Return the answer to an order that was refused; None while there is none."""
    said = await last_said(js, OrderRefused, given.subject)
    return said.data if said is not None and said.data.order_id == given.id else None


async def raise_if_refused(js: JetStreamContext, given: Event[Any], wait_s: float = ANSWER_S) -> None:
    """Raise Refused, with the answer, when an order is refused within a moment.

    An order that is carried out has no answer of its own here, so nothing else ends the wait but its service having
    acknowledged the message.
    """
    deadline = asyncio.get_running_loop().time() + wait_s
    while asyncio.get_running_loop().time() < deadline:
        if await _acknowledged(js, given):
            break
        await asyncio.sleep(ANSWER_TRY_S)
    answer = await refusal(js, given)
    if answer is not None:
        raise Refused(f"the order was refused: {answer.code}: {answer.reason}")


async def _acknowledged(js: JetStreamContext, given: Event[Any]) -> bool:
    durable = durable_name("registry", type(given.data))
    with contextlib.suppress(NotFoundError):
        info = await js.consumer_info(ORDERS, durable)
        return not info.num_pending and not info.num_ack_pending
    return False


def order(model: str, release_id: str | None, fact: Fact) -> Event[Any]:
    """Wrap an order of a person; one that is about no release is its own.

    Raises:
        Refused: a text of it is too long; the sentence is the one that services answer with.
    """
    found = too_large(fact)
    if found is not None:
        raise Refused(found.sentence, Exit.USAGE)
    order_id = str(uuid.uuid4())
    return Event[Any](
        id=order_id,
        source="/slipway/cli",
        type=fact.TYPE,
        subject=model,
        time=SystemClock().now(),
        correlationid=release_id or order_id,
        data=fact,
    )


def _say(as_json: bool, data: dict[str, Any], line: str) -> None:
    if as_json:
        show_json(data)
    else:
        show_line(line)


def load_policy(path: Path) -> ReleasePolicy:
    """Read a release policy from YAML or JSON.

    Raises:
        Refused: the file is not there, or does not hold a valid policy.
    """
    try:
        return ReleasePolicy.model_validate(yaml.safe_load(path.read_text()))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Refused(f"the policy {path} cannot be read: {error}", Exit.USAGE) from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'policy'}: {one['msg']}" for one in error.errors())
        raise Refused(f"the policy {path} is not valid: {problems}", Exit.USAGE) from error


@policy_app.command("set")
def policy_set(model: str, file: Annotated[Path, typer.Argument(metavar="FILE")], state: StateOption = None) -> None:
    """Store the release policy of a model; a checkpoint's own policy may then only tighten it."""
    policy = load_policy(file)
    asyncio.run(_policy_set(find_place(state), model, policy))
    show_line(f"stored the policy of {model}; it holds for releases opened from now on")


async def _policy_set(place: Place, model: str, policy: ReleasePolicy) -> None:
    async with connected(place) as client:
        bucket = Bucket(client.jetstream(timeout=10), "policies", ReleasePolicy)
        try:
            entry = await bucket.get(model)
            if entry is None:
                await bucket.create(model, policy)
            else:
                await bucket.update(model, policy, entry.revision)
        except Conflict:
            raise Refused(f"somebody else stored a policy for {model} just now; look at it, then try again") from None


@policy_app.command("show")
def policy_show(model: str, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Show the stored release policy of a model."""
    policy = asyncio.run(_policy_get(find_place(state), model))
    if policy is None:
        raise Refused(f"{model} has no stored policy; set one with `slipway policy set {model} FILE`")
    if as_json:
        show_json(policy.model_dump(mode="json"))
    else:
        show_line(yaml.safe_dump(json.loads(policy.model_dump_json()), sort_keys=False).rstrip())


async def _policy_get(place: Place, model: str) -> ReleasePolicy | None:
    async with connected(place) as client:
        entry = await Bucket(client.jetstream(timeout=10), "policies", ReleasePolicy).get(model)
    return entry.value if entry is not None else None
