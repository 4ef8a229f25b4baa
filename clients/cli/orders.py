"""Orders of people: approve, cancel, and the stored policy of a model."""

import asyncio
import getpass
import json
import uuid
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import ValidationError

from clients.cli.eventlog import read_history
from clients.cli.place import JsonOption, Place, StateOption, connected, find_place
from clients.cli.road import Road, join, project
from clients.cli.say import Exit, Refused, show_json, show_line
from clients.cli.settings import CliSettings
from clients.cli.status import model_of, pick
from contracts.envelope import Event
from contracts.facts import ApprovalAwaited, ApprovalGranted, Fact, ReleaseCancelled
from contracts.policy import ReleasePolicy
from shared.bus import publish_event
from shared.clock import SystemClock
from shared.kv import Bucket, Conflict

ReasonOption = Annotated[str, typer.Option("--reason", help="Why; kept in the record.")]
policy_app = typer.Typer(help="Show or set the stored release policy of a model.", no_args_is_help=True)


def who() -> str:
    """Say who gives an order."""
    return CliSettings().user or getpass.getuser()


def approve(
    what: Annotated[str, typer.Argument(metavar="MODEL|RELEASE")],
    reason: ReasonOption = "",
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Approve a release that waits for a person; the approval names exactly what was registered."""
    place = find_place(state)
    asyncio.run(_approve(place, what, reason, as_json))


async def _approve(place: Place, what: str, reason: str, as_json: bool) -> None:
    async with connected(place) as client:
        js = client.jetstream(timeout=10)
        said = [one.event for one in await read_history(js, model_of(what))]
        road = _going_on(join(project(said)), what)
        awaited = [
            event.data
            for event in said
            if isinstance(event.data, ApprovalAwaited) and event.data.release_id == road.release_id
        ]
        if not awaited:
            raise Refused(f"{road.name} does not wait for an approval; see `slipway status {road.model}`")
        fact = ApprovalGranted(
            release_id=awaited[-1].release_id, manifest_digest=awaited[-1].manifest_digest, who=who(), reason=reason
        )  # fmt: skip
        await publish_event(js, order(road.model, awaited[-1].release_id, fact))
    _say(as_json, {"release_id": fact.release_id, "manifest_digest": fact.manifest_digest}, f"approved {road.name}")


def cancel(
    what: Annotated[str, typer.Argument(metavar="MODEL|RELEASE")],
    reason: ReasonOption = "cancelled from the command line",
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stop a release that has not ended yet."""
    place = find_place(state)
    asyncio.run(_cancel(place, what, reason, as_json))


async def _cancel(place: Place, what: str, reason: str, as_json: bool) -> None:
    async with connected(place) as client:
        js = client.jetstream(timeout=10)
        said = [one.event for one in await read_history(js, model_of(what))]
        road = _going_on(join(project(said)), what)
        release = str(road.release_id)
        await publish_event(
            js, order(road.model, release, ReleaseCancelled(release_id=release, who=who(), reason=reason))
        )
    _say(as_json, {"release_id": release}, f"ordered to cancel {road.name}; see `slipway status {road.model}`")


def _going_on(roads: dict[str, Road], what: str) -> Road:
    """Give the release that a word means, if it has not ended."""
    road = pick({key: one for key, one in roads.items() if one.outcome is None}, what)
    if road is None or road.release_id is None:
        raise Refused(f"no release of {what} is under way; see `slipway status`")
    return road


def order(model: str, release_id: str | None, fact: Fact) -> Event[Any]:
    """Wrap an order of a person; one that is about no release is its own."""
    order_id = str(uuid.uuid4())
    return Event[Any](
        id=order_id, source="/slipway/cli", type=fact.TYPE, subject=model, time=SystemClock().now(),
        correlationid=release_id or order_id, data=fact,
    )  # fmt: skip


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
def policy_set(
    model: str, file: Annotated[Path, typer.Argument(metavar="FILE")], state: StateOption = None
) -> None:  # fmt: skip
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
