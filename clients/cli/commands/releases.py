"""`slipway approve`, `reject`, `cancel`, `pause`, `resume`, `promote` and `retry`: orders about a release."""

import asyncio
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any

import typer

from clients.cli.commands.orders import EXPIRES, ExpiresOption, ReasonOption, expires_at, order_release
from clients.cli.connection import StackAddress, find_stack, on_bus, sender_of
from clients.cli.options import JsonOption, StateOption
from clients.cli.output import CommandError, show_result
from clients.cli.reading import RecordsOfModels
from clients.cli.releases.names import parse_name
from clients.cli.releases.recorded_releases import Release, newest_release, read_releases
from clients.cli.releases.resolving import ReleaseArgument, resolve, unknown_release
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
from contracts.policy import ReleasePolicy
from contracts.routes import Route
from contracts.runtimes import DEFAULT_RUNTIME
from contracts.vocabulary import ServingSettings
from decisions.serving.runtimes import runtime_name
from decisions.serving.settings import combine
from shared.messaging.orders import new_order
from shared.messaging.publishing import publish_event
from shared.runtime.clock import SystemClock


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
            release_id=_id(release),
            manifest_digest=release.asked,
            reason=reason,
            expires_at=until,
            epoch=route.epoch if route is not None else 0,
        )

    release, fact = order_release(stack, what, approval)
    line = f"approved {release.progress.name}{_count_after(release, sender_of(stack))}"
    data = {"release_id": fact.release_id, "manifest_digest": fact.manifest_digest}
    show_result(data, line, as_json=as_json)


def _count_after(release: Release, sender: str) -> str:
    """Return the given and required approvals as text; empty if a single approval is required."""
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
    about: dict[str, Any] = {"reason": reason, "expires_at": expires_at(expires)}
    order = order_release(find_stack(state), what, lambda each, _: ReleaseCancelled(release_id=_id(each), **about))
    release = order[0].progress
    line = f"ordered the cancellation of {release.name}; see `slipway status {release.model}`"
    show_result({"release_id": release.release_id}, line, as_json=as_json)


def pause(
    what: ReleaseArgument,
    reason: ReasonOption = "",
    expires: ExpiresOption = EXPIRES,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Pause a release before its next step; work in progress continues, and a canary keeps its share.

    Deadlines stop during a pause; rollbacks never pause. With `on_newer: queue`, newer versions wait.
    """
    _hold(find_stack(state), what, reason, expires_at(expires), paused=True, as_json=as_json)


def resume(
    what: ReleaseArgument,
    reason: ReasonOption = "",
    expires: ExpiresOption = EXPIRES,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Resume a paused release; its next step has a whole deadline again."""
    _hold(find_stack(state), what, reason, expires_at(expires), paused=False, as_json=as_json)


def _hold(stack: StackAddress, what: str, reason: str, until: datetime, *, paused: bool, as_json: bool) -> None:
    """Order a pause or its end, also of a release in that state: an earlier order may not be answered yet."""
    about: dict[str, Any] = {"paused": paused, "reason": reason, "expires_at": until}
    release = order_release(stack, what, lambda each, _: ReleaseHeld(release_id=_id(each), **about))[0].progress
    line = f"{release.name} goes on; see `slipway status {release.model}`"
    if paused:
        line = f"paused {release.name} before its next step; `slipway resume {release.model}` lets it go on"
    show_result({**_data(release), "paused": paused}, line, as_json=as_json)


def promote(
    what: ReleaseArgument,
    reason: ReasonOption,
    expires: ExpiresOption = EXPIRES,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Move the canary, or the shadow, of a release to its next share of traffic without a verdict.

    The order is accepted after the deadline, or earlier with `canary.on_deadline: promote` in the policy. It takes the
    role approver. A canary with a bad verdict ends nevertheless.
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
            release_id=_id(release),
            weight_ratio=share,
            reason=reason,
            expires_at=until,
            epoch=route.epoch if route is not None else 0,
        )

    release, fact = order_release(stack, what, advanced)
    line = f"{release.progress.name} does not wait for the verdict at {fact.weight_ratio:.0%} of the traffic any more"
    show_result({**_data(release.progress), "weight_ratio": fact.weight_ratio}, line, as_json=as_json)


def reject(
    what: ReleaseArgument,
    reason: ReasonOption,
    expires: ExpiresOption = EXPIRES,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a release that waits for approval. It takes the role approver."""
    about: dict[str, Any] = {"reason": reason, "expires_at": expires_at(expires)}
    order = order_release(find_stack(state), what, lambda each, _: ApprovalDenied(release_id=_id(each), **about))
    release = order[0].progress
    line = f"rejected {release.name}; `slipway retry {release.model}@v{release.version}` releases it again"
    show_result(_data(release), line, as_json=as_json)


def retry(
    what: ReleaseArgument,
    runtime: Annotated[
        str | None, typer.Option(metavar="NAME", help="Another runtime that is to serve it; see `slipway endpoints`.")
    ] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Release the checkpoint of an unpromoted release again, or that of any release on another runtime.

    It takes the role publisher. The stored policy of the model applies; without a stored policy, the release's own.
    """
    release, attempt = asyncio.run(_retry(find_stack(state), what, runtime))
    follow = f"follow it with `slipway status {release.model} --follow`"
    line = f"published the checkpoint of {release.name} again, attempt {attempt}; {follow}"
    show_result({**_data(release), "attempt": attempt}, line, as_json=as_json)


async def _retry(stack: StackAddress, what: str, runtime: str | None) -> tuple[ReleaseProgress, int]:
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
        if release.opened is None:
            raise CommandError(
                f"{progress.name} was refused before a release began: publish it with a higher --attempt"
            )
        if progress.outcome == "promoted" and runtime in (None, runtime_name(release.opened.serving)):
            reason = f"{progress.name} was promoted: it can be released once more on another runtime (--runtime) only"
            raise CommandError(reason, name="not_applicable")
        stored = await RecordsOfModels(js, "policies", ReleasePolicy).get(progress.model)
        known = [each.opened for each in await read_releases(js, progress.model) if each.opened is not None]
        fact = next_attempt(release.opened, known, stored, runtime)
        run_id = fact.training.run_id
        event = new_order(sender_of(stack), progress.model, fact, now=SystemClock().now(), release_id=run_id)
        await publish_event(js, event, random_id=True)
    return progress, fact.attempt


def next_attempt(
    opened: ReleaseOpened, known: Iterable[ReleaseOpened], stored: ReleasePolicy | None, runtime: str | None = None
) -> CheckpointReady:
    """Return the checkpoint of a release as its next attempt.

    Args:
        opened: The release to repeat.
        known: All releases of the model; releases of the same weights and training run count as attempts.
        stored: The stored policy of the model; None to keep the policy of the release.
        runtime: The runtime that is to serve it; None for the release's own.
    """
    fields = {name: getattr(opened, name) for name in CheckpointReady.model_fields}
    if runtime is not None:
        chosen = None if runtime == DEFAULT_RUNTIME else runtime
        serving = (opened.serving or ServingSettings()).model_copy(update={"runtime": chosen})
        fields["serving"] = combine(serving, None)
    same = (opened.weights.ref.digest, opened.training.run_id)
    attempts = [each.attempt for each in known if (each.weights.ref.digest, each.training.run_id) == same]
    policy = opened.policy if stored is None else None
    return CheckpointReady(**{**fields, "policy": policy, "attempt": max([opened.attempt, *attempts]) + 1})


def _id(release: Release) -> str:
    return str(release.progress.release_id)


def _data(release: ReleaseProgress) -> dict[str, object]:
    return {"release_id": release.release_id, "model": release.model, "version": release.version}
