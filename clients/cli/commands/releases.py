"""`slipway approve`, `reject`, `cancel`, `pause`, `resume`, `promote` and `retry`: orders of people about a release."""

import asyncio
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from clients.cli.commands.orders import EXPIRES, ExpiresOption, ReasonOption, expires_at, order_release, show_result
from clients.cli.connection import StackAddress, find_stack, on_bus, sender_of
from clients.cli.events.event_log import EventFilter, read_history
from clients.cli.options import JsonOption, StateOption
from clients.cli.output import CommandError
from clients.cli.releases.names import parse_name
from clients.cli.releases.recorded_releases import Release, newest_release
from clients.cli.releases.resolving import ReleaseArgument, resolve, unknown_release
from contracts.envelope import Event
from contracts.facts import (
    ApprovalDenied,
    ApprovalGranted,
    CanaryAdvanced,
    CheckpointReady,
    ReleaseCancelled,
    ReleaseHeld,
    ReleaseOpened,
)
from contracts.facts.progress import ReleaseProgress
from contracts.routes import Route
from shared.messaging.orders import new_order
from shared.messaging.publishing import publish_event
from shared.runtime.clock import SystemClock

ANNOUNCED = EventFilter((), with_orders=True)
"""All announcements and orders, and no events of services."""


def approve(
    what: ReleaseArgument,
    reason: ReasonOption = "",
    expires: ExpiresOption = EXPIRES,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Approve a release that waits for approval; the approval names the digest of the registered version."""
    stack, until = find_stack(state), expires_at(expires)

    def approval(release: Release, route: Route | None) -> ApprovalGranted:
        if release.asked is None:
            name, model = release.progress.name, release.progress.model
            raise CommandError(f"{name} does not wait for an approval; see `slipway status {model}`")
        return ApprovalGranted(
            release_id=str(release.progress.release_id),
            manifest_digest=release.asked,
            reason=reason,
            expires_at=until,
            epoch=route.epoch if route is not None else 0,
        )

    release, fact = order_release(stack, what, approval)
    line = f"approved {release.progress.name}{_count_after(release, sender_of(stack))}"
    show_result(as_json, {"release_id": fact.release_id, "manifest_digest": fact.manifest_digest}, line)


def _count_after(release: Release, sender: str) -> str:
    """Return the approvals given and needed as text; empty if one suffices."""
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
    stack, until = find_stack(state), expires_at(expires)

    def cancelled(release: Release, _route: Route | None) -> ReleaseCancelled:
        return ReleaseCancelled(release_id=str(release.progress.release_id), reason=reason, expires_at=until)

    release = order_release(stack, what, cancelled)[0].progress
    line = f"ordered the cancellation of {release.name}; see `slipway status {release.model}`"
    show_result(as_json, {"release_id": release.release_id}, line)


def pause(
    what: ReleaseArgument,
    reason: ReasonOption = "",
    expires: ExpiresOption = EXPIRES,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Pause a release before its next step; work in progress continues, and a canary keeps its share.

    Its deadlines stop meanwhile. Rollbacks are never paused. A newer version waits for it, if its policy says `queue`.
    """
    _hold(find_stack(state), what, reason, expires_at(expires), paused=True, as_json=as_json)


def resume(
    what: ReleaseArgument,
    reason: ReasonOption = "",
    expires: ExpiresOption = EXPIRES,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Resume a paused release; the step that it waits for has its whole deadline again."""
    _hold(find_stack(state), what, reason, expires_at(expires), paused=False, as_json=as_json)


def hold_line(before: ReleaseProgress, *, paused: bool) -> str:
    """Return the line about an order that held a release, or let it go on, which was in a state before it."""
    already = _already(before, paused=paused)
    if already is not None:
        return f"{before.name} {already}; see `slipway status {before.model}`"
    if paused:
        return f"paused {before.name} before its next step; `slipway resume {before.model}` lets it go on"
    return f"{before.name} goes on; see `slipway status {before.model}`"


def _already(before: ReleaseProgress, *, paused: bool) -> str | None:
    """Return in which state a release was already that an order puts it into; None if the order changes its state."""
    if paused and before.paused:
        return f"was {before.paused}"
    return None if paused or before.paused else "was not paused"


def _hold(stack: StackAddress, what: str, reason: str, until: datetime, *, paused: bool, as_json: bool) -> None:
    """Order it; an order that changes nothing, too: another one before it may not be answered yet."""

    def held(release: Release, _route: Route | None) -> ReleaseHeld:
        return ReleaseHeld(release_id=str(release.progress.release_id), paused=paused, reason=reason, expires_at=until)

    before = order_release(stack, what, held)[0].progress
    changed = _already(before, paused=paused) is None
    show_result(as_json, _data(before, paused=paused, changed=changed), hold_line(before, paused=paused))


def promote(
    what: ReleaseArgument,
    reason: ReasonOption,
    expires: ExpiresOption = EXPIRES,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Move the canary, or the shadow, of a release on to its next share of traffic without a verdict.

    It is accepted after the deadline, or earlier if the policy has `canary.on_deadline: promote`. It takes the role
    approver. A canary with a bad verdict ends nevertheless.
    """
    stack, until = find_stack(state), expires_at(expires)

    def advanced(release: Release, route: Route | None) -> CanaryAdvanced:
        progress = release.progress
        canary = route.canary_in_traffic if route is not None else None
        share = canary.weight_ratio if canary and canary.served.target.version == progress.version else 0.0
        shadowed = route.shadowed if route is not None else None
        if not share and (shadowed is None or shadowed.target.version != progress.version):
            raise CommandError(
                f"{progress.name} has no canary or shadow; see `slipway status {progress.model}`", name="not_applicable"
            )
        return CanaryAdvanced(
            release_id=str(progress.release_id),
            weight_ratio=share,
            reason=reason,
            expires_at=until,
            epoch=route.epoch if route is not None else 0,
        )

    release, fact = order_release(stack, what, advanced)
    line = f"{release.progress.name} does not wait for the verdict at {fact.weight_ratio:.0%} of the traffic any more"
    show_result(as_json, {**_data(release.progress), "weight_ratio": fact.weight_ratio}, line)


def reject(
    what: ReleaseArgument,
    reason: ReasonOption,
    expires: ExpiresOption = EXPIRES,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Reject a release that waits for approval, which ends it. It takes the role approver."""
    stack, until = find_stack(state), expires_at(expires)

    def denied(release: Release, _route: Route | None) -> ApprovalDenied:
        return ApprovalDenied(release_id=str(release.progress.release_id), reason=reason, expires_at=until)

    release = order_release(stack, what, denied)[0].progress
    line = f"rejected {release.name}; `slipway retry {release.model}@v{release.version}` releases it again"
    show_result(as_json, _data(release), line)


def retry(
    what: ReleaseArgument,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Release once more the checkpoint of a release that ended without promotion, as its next attempt.

    It takes the role publisher. A checkpoint without a policy of its own is released under the one that is stored now.
    """
    release, attempt = asyncio.run(_retry(find_stack(state), what))
    follow = f"follow it with `slipway status {release.model} --follow`"
    line = f"published the checkpoint of {release.name} again, attempt {attempt}; {follow}"
    show_result(as_json, {**_data(release), "attempt": attempt}, line)


async def _retry(stack: StackAddress, what: str) -> tuple[ReleaseProgress, int]:
    async with on_bus(stack) as js:
        name = await resolve(js, parse_name(what))
        release = await newest_release(js, name, None)
        if release is None:
            raise CommandError(await unknown_release(js, str(name)))
        progress = release.progress
        if progress.outcome is None:
            raise CommandError(
                f"{progress.name} is in progress; see `slipway status {progress.model}`", name="not_applicable"
            )
        if progress.outcome == "promoted":
            raise CommandError(f"{progress.name} was promoted: there is nothing to retry", name="not_applicable")
        announced = [logged.event for logged in await read_history(js, progress.model, ANNOUNCED)]
        checkpoints = [event.data for event in announced if isinstance(event.data, CheckpointReady)]
        source = source_of(release, announced)
        fact = source.model_copy(update={"attempt": next_attempt(source, checkpoints)})
        event = new_order(
            sender_of(stack), progress.model, fact, now=SystemClock().now(), release_id=source.training.run_id
        )
        await publish_event(js, event, random_id=True)
    return progress, fact.attempt


def source_of(release: Release, history: Iterable[Event[Any]]) -> CheckpointReady:
    """Return the checkpoint that a release was opened from.

    The id of an event is its publisher's choice, so it does not tell one checkpoint from another.

    Raises:
        CommandError: the log has it no more, or several that it may be.
    """
    named = [
        event
        for event in history
        if isinstance(event.data, CheckpointReady) and event.id == release.source_id and _is_of(event, release.opened)
    ]
    about = release.progress.name
    if not named:
        raise CommandError(f"the log has the checkpoint of {about} no more; publish it with `slipway publish`")
    if any(event.data != named[0].data for event in named):
        raise CommandError(
            f"the log has several checkpoints with the id {named[0].id} that {about} may have been opened from; "
            "publish the right one with `slipway publish`"
        )
    source: CheckpointReady = named[0].data
    return source


def _is_of(event: Event[CheckpointReady], opened: ReleaseOpened | None) -> bool:
    """Return whether a release may have been opened from a checkpoint, by its inputs and its publisher."""
    if opened is None:
        return True
    published = not opened.publishers or event.sender in opened.publishers
    return published and _inputs(event.data) == _inputs(opened)


def _inputs(fact: CheckpointReady | ReleaseOpened) -> tuple[object, ...]:
    """Return the inputs that identify a checkpoint: equal inputs mean the same checkpoint."""
    files, variants = (fact.weights.ref.digest, fact.base.digest), sorted(set(fact.variants))
    return (fact.model, *files, fact.training.run_id, fact.attempt, *variants)


def next_attempt(source: CheckpointReady, known: list[CheckpointReady]) -> int:
    """Return one more than the highest attempt of the same weights and run."""
    same = [
        each
        for each in known
        if (each.weights.ref.digest, each.training.run_id) == (source.weights.ref.digest, source.training.run_id)
    ]
    return max(each.attempt for each in (source, *same)) + 1


def _data(release: ReleaseProgress, **more: object) -> dict[str, object]:
    return {"release_id": release.release_id, "model": release.model, "version": release.version, **more}
