"""Edits of routes: pure functions that return the changed route or a refusal, to be applied by compare-and-set."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from contracts.routes import CanaryShare, Returned, Route, ServedTarget, ShadowShare, Suspended
from contracts.vocabulary import OnlyFor, Target
from decisions.routes.versions import is_of


@dataclass(frozen=True)
class Changed:
    """The edit is permitted; `route` is to be written."""

    route: Route
    cause: Literal["promote", "canary", "shadow", "abort", "rollback", "restore", "confirm", "return", "judge"]


@dataclass(frozen=True)
class AlreadyApplied:
    """The same cause has edited the route before; only the fact is published again."""

    route: Route


@dataclass(frozen=True)
class EditRefused:
    """The edit is refused."""

    code: Literal["stale_epoch", "quarantined", "suspended", "no_previous_target", "not_suspended"]
    reason: str


Edit = Changed | AlreadyApplied | EditRefused
HISTORY_KEPT = 5
AWAY, AWAY_EVERY, AWAY_TIMES = timedelta(seconds=70), timedelta(minutes=3), 10
"""Time without a canary's traffic (ten seconds of it for requests in flight), least time between, maximum number."""
_BY_ITSELF = timedelta(days=1)
"""Time after a return in which no other version of the model returns automatically."""


def promote(
    route: Route,
    served: ServedTarget,
    *,
    weight_ratio: float,
    epoch: int,
    cause_id: str,
    fallback: ServedTarget | None = None,
    shadow_ratio: float = 0.0,
    only_for: OnlyFor = (),
) -> Edit:
    """Return the route with a share of traffic for a target; 1.0 makes it active and the active target previous.

    With weight 0 it becomes a shadow with `shadow_ratio`, which ends with its first traffic. `fallback` becomes
    previous if no target was active before. The first traffic of a new version quarantines suspended versions; a
    returning version leaves the others suspended.
    """
    target = served.target
    if cause_id == route.last_edit_id:
        return AlreadyApplied(route)
    is_active = route.active is not None and route.active.target == target
    barred = _why_barred(route, target)
    if barred is not None:
        return barred
    if not is_of(route, epoch) or (is_active and weight_ratio < 1.0):
        active = f", where {target} takes all traffic already" if is_active else ""
        return EditRefused(
            "stale_epoch", f"The order was made for epoch {epoch}, the route is at {route.epoch}{active}."
        )
    update = {**_next(route, cause_id), "shadow": None}
    if weight_ratio == 0.0:
        update |= {"canary": None, "suspended": put_back(route)}
        shadow = ShadowShare(served=served, share_ratio=shadow_ratio)
        return Changed(route.model_copy(update={**update, "shadow": shadow}), "shadow")
    returns = route.suspension(target) or _returning(route, target)
    kept = tuple(entry for entry in put_back(route) if entry.served.target != target)
    left = tuple(entry.served.target for entry in kept)
    quarantined = route.quarantined
    if returns is None:
        quarantined, kept = (*quarantined, *(each for each in left if each not in quarantined)), ()
    update |= {"suspended": kept, "quarantined": quarantined}
    if weight_ratio < 1.0:
        canary = CanaryShare(served=served, weight_ratio=weight_ratio, only_for=only_for, returns=returns)
        return Changed(route.model_copy(update={**update, "canary": canary}), "canary")
    update |= {"active": served, "canary": None}
    if not is_active:
        behind = (route.active, route.previous, *route.history) if route.active else (fallback, *route.history)
        update |= _behind(behind, target, {*quarantined, *left})
    return Changed(route.model_copy(update=update), "promote")


def _why_barred(route: Route, target: Target) -> EditRefused | None:
    if route.is_quarantined(target):
        reason = f"{target} was rolled back and is quarantined; publish its checkpoint with a higher attempt."
        return EditRefused("quarantined", reason)
    suspension = route.suspension(target)
    if suspension is not None and not suspension.returned_by:
        return EditRefused("suspended", f"{target} is suspended; decide about it first: slipway rollback return.")
    return None


def roll_back(
    route: Route,
    failed: Target,
    *,
    cause_id: str,
    to_version: int | None = None,
    suspended_by: tuple[str, datetime] | None = None,
    judged_by: str = "",
) -> Edit:
    """Remove a failed target from production, and quarantine or suspend it.

    A failed canary gets weight 0, a failed shadow share 0. A failed active target is replaced by previous, which also
    aborts canary and shadow.

    Args:
        route: The route.
        failed: The target to remove.
        cause_id: Id of the causing event.
        to_version: Version of the history, or of a returning canary, to activate instead of previous; for alerts also a
            suspended version.
        suspended_by: Id and time of the alert; it suspends an active or returning target instead of quarantining it.
        judged_by: Trigger of the alert if a shadow can judge the suspended target by it.
    """
    if cause_id == route.last_edit_id:
        return AlreadyApplied(route)
    barred = {entry.served.target for entry in route.suspended}
    quarantined = route.quarantined if route.is_quarantined(failed) else (*route.quarantined, failed)
    update: dict[str, object] = {**_next(route, cause_id), "quarantined": quarantined}
    active = route.active.target if route.active else None
    aborted = _without_trial(route, failed) if failed != active else None
    if aborted is not None:
        returning = _returning(route, failed)
        if returning is not None and suspended_by is not None:
            cause, at = suspended_by
            suspension = Suspended(served=returning.served, cause=cause, since=at, trigger=judged_by)
            update |= {"quarantined": route.quarantined, "suspended": (suspension, *route.suspended)}
            barred.add(failed)
        update |= {**aborted, **_behind((route.previous, *route.history), active, {*quarantined, *barred})}
        return Changed(route.model_copy(update=update), "abort")
    if active != failed:
        return EditRefused(
            "stale_epoch",
            f"{failed} is neither active nor canary nor shadow of {route.model}; there is nothing to roll back.",
        )
    barred |= set(quarantined)
    held, returning = put_back(route), _returning(route)
    revived = [entry.served for entry in held if suspended_by and entry.served.target.version == to_version]
    if not (revived or returning) and (route.previous is None or route.previous.target in barred):
        return EditRefused("no_previous_target", f"{route.model} has no previous target to roll back to.")
    behind = [served for served in (route.previous, *route.history) if served is not None]
    usable = [*behind, returning.served] if returning is not None else behind
    named = [each for each in usable if to_version in (None, each.target.version) and each.target not in barred]
    chosen = next(iter([*revived, *named]), None)
    if chosen is None:
        return EditRefused("no_previous_target", f"{route.model} has no version {to_version} in its history.")
    held = tuple(entry for entry in held if entry.served.target != chosen.target)
    update |= {"active": chosen, "canary": None, "shadow": None, "suspended": held}
    if suspended_by is not None and route.active is not None:
        cause, at = suspended_by
        suspension = Suspended(served=route.active, cause=cause, since=at, trigger=judged_by)
        update |= {"quarantined": route.quarantined, "suspended": (suspension, *held)}
        if revived:
            update["returned"] = _with_return(route, chosen.target, at)
    update |= _behind(behind, chosen.target, barred)
    return Changed(route.model_copy(update=update), "rollback")


def confirm(route: Route, target: Target, *, cause_id: str) -> Edit:
    """Quarantine a suspended target as the cause; orders for earlier epochs stay valid."""
    if cause_id in (route.cause_id, route.last_edit_id):
        return AlreadyApplied(route)
    if route.suspension(target) is None:
        return _not_suspended(target)
    kept = tuple(entry for entry in route.suspended if entry.served.target != target)
    update = {**_next_note(route, cause_id), "suspended": kept, "quarantined": (*route.quarantined, target)}
    return Changed(route.model_copy(update=update), "confirm")


def judge(
    route: Route,
    target: Target,
    *,
    since: datetime,
    verdict: Literal["confirmed", "cleared", "undecided"],
    evidence: str,
    cause_id: str,
    returns_at: datetime | None = None,
) -> Edit:
    """Record a shadow's verdict on a suspended target; quarantine a confirmed one.

    With `returns_at` a cleared target returns as a canary (`returns_by_itself`).
    """
    suspension = route.suspension(target)
    if cause_id in (route.cause_id, route.last_edit_id):
        return AlreadyApplied(route)
    if suspension is None or suspension.since != since:
        return _not_suspended(target)
    if verdict == "confirmed":
        return confirm(route, target, cause_id=cause_id)
    judged = suspension.model_copy(update={"verdict": verdict, "evidence": evidence})
    noted = _note(route, suspension, judged, cause_id)
    if verdict != "cleared" or returns_at is None or not returns_by_itself(route, target, returns_at):
        return Changed(noted, "judge")
    return Changed(_let_return(noted, target, returns_at, cause_id), "judge")


def returns_by_itself(route: Route, target: Target, at: datetime) -> bool:
    """Return whether a target may return automatically: it never did, nor did another within a day."""
    return all(known.target != target and at - known.at >= _BY_ITSELF for known in route.returned)


def order_return(route: Route, target: Target, *, at: datetime, cause_id: str) -> Edit:
    """Mark a suspended target as returning; the registry opens its release as a canary."""
    waiting = route.suspension(target)
    if cause_id in (route.cause_id, route.last_edit_id) or (waiting is not None and waiting.returned_by):
        return AlreadyApplied(route)
    if waiting is None:
        return _not_suspended(target)
    return Changed(_let_return(route.model_copy(update=_next_note(route, cause_id)), target, at, cause_id), "judge")


def return_suspended(route: Route, target: Target, *, at: datetime, cause_id: str) -> Edit:
    """Activate a suspended or returning target; the active one becomes previous."""
    if cause_id == route.last_edit_id:
        return AlreadyApplied(route)
    suspension = next((entry for entry in put_back(route) if entry.served.target == target), None)
    if suspension is None:
        return _not_suspended(target)
    kept = tuple(entry for entry in put_back(route) if entry.served.target != target)
    update = {**_next(route, cause_id), "suspended": kept, "returned": _with_return(route, target, at)}
    update |= {"active": suspension.served, "canary": None, "shadow": None}
    barred = {*route.quarantined, *(entry.served.target for entry in kept)}
    update |= _behind((route.active, route.previous, *route.history), target, barred)
    return Changed(route.model_copy(update=update), "return")


def take_away(route: Route, target: Target, *, at: datetime, cause_id: str) -> Edit:
    """Take a canary's traffic away for a minute, unless it was away minutes ago or too often."""
    if cause_id in (route.cause_id, route.last_edit_id):
        return AlreadyApplied(route)
    canary = route.canary_in_traffic
    since = at - canary.away_until if canary is not None and canary.away_until is not None else AWAY_EVERY
    if canary is None or canary.served.target != target or since < AWAY_EVERY or canary.times_away >= AWAY_TIMES:
        return EditRefused("stale_epoch", f"{target} is no canary, was away minutes ago, or {AWAY_TIMES} times.")
    share = canary.model_copy(update={"away_until": at + AWAY, "times_away": canary.times_away + 1})
    return Changed(route.model_copy(update={**_next_note(route, cause_id), "canary": share}), "judge")


def _not_suspended(target: Target) -> EditRefused:
    return EditRefused("not_suspended", f"{target} is not suspended; see slipway routes.")


def _returning(route: Route, target: Target | None = None) -> Suspended | None:
    """Return the suspension of a returning canary in traffic, optionally only of `target`; None without one."""
    canary = route.canary_in_traffic
    return canary.returns if canary is not None and target in (None, canary.served.target) else None


def is_returning(route: Route, target: Target) -> bool:
    """Return whether a suspended target returns: as a canary, or in the queue of releases."""
    waiting = route.suspension(target)
    return _returning(route, target) is not None or (waiting is not None and bool(waiting.returned_by))


def put_back(route: Route) -> tuple[Suspended, ...]:
    """Return the suspended targets, including a returning canary."""
    returning = _returning(route)
    if returning is None:
        return route.suspended
    return (returning.model_copy(update={"returned_by": ""}), *route.suspended)


def _note(route: Route, suspension: Suspended, noted: Suspended, cause_id: str) -> Route:
    """Return the route with another record of a suspended target."""
    suspended = tuple(noted if entry is suspension else entry for entry in route.suspended)
    return route.model_copy(update={**_next_note(route, cause_id), "suspended": suspended})


def _let_return(route: Route, target: Target, at: datetime, cause_id: str) -> Route:
    suspended = tuple(
        entry.model_copy(update={"returned_by": cause_id}) if entry.served.target == target else entry
        for entry in route.suspended
    )
    return route.model_copy(update={"suspended": suspended, "returned": _with_return(route, target, at)})


def _with_return(route: Route, target: Target, at: datetime) -> tuple[Returned, ...]:
    others = [known for known in route.returned if known.target != target]
    return (Returned(target=target, at=at), *others[:HISTORY_KEPT])


def _without_trial(route: Route, failed: Target) -> dict[str, CanaryShare | ShadowShare] | None:
    """Return the fields that end a canary or shadow; None if the target is neither."""
    canary, shadow = route.canary_in_traffic, route.shadow
    if canary is not None and canary.served.target == failed:
        return {"canary": CanaryShare(served=canary.served, weight_ratio=0.0)}
    if shadow is not None and shadow.share_ratio > 0.0 and shadow.served.target == failed:
        return {"shadow": ShadowShare(served=shadow.served, share_ratio=0.0)}
    return None


def has_trial(route: Route, target: Target) -> bool:
    """Return whether a target is a canary with traffic, or a shadow."""
    return _without_trial(route, target) is not None


def end_trial(route: Route, target: Target, *, cause_id: str, order_id: str | None = None) -> Edit:
    """End a release's canary or shadow without a verdict; a returning version is suspended again.

    With `order_id` only if that order began it.
    """
    if cause_id in (route.cause_id, route.last_edit_id):
        return AlreadyApplied(route)
    waiting = route.suspension(target)
    if waiting is not None and waiting.returned_by:
        return Changed(_note(route, waiting, waiting.model_copy(update={"returned_by": ""}), cause_id), "abort")
    ended = _without_trial(route, target) if order_id in (None, route.last_edit_id) else None
    if ended is None:
        return EditRefused("stale_epoch", f"{route.model} was edited since, or {target} is neither canary nor shadow.")
    suspended = put_back(route) if _returning(route, target) else route.suspended
    return Changed(route.model_copy(update={**_next(route, cause_id), **ended, "suspended": suspended}), "abort")


def move(route: Route, target: Target, endpoints: tuple[str, ...], *, epoch: int, cause_id: str) -> Edit:
    """Return the route with other endpoints for one of its targets; orders for earlier epochs stay valid (`is_of`)."""
    if cause_id == route.cause_id:
        return AlreadyApplied(route)
    if epoch != route.epoch:
        return EditRefused("stale_epoch", f"The move was planned for epoch {epoch}, the route is at {route.epoch}.")

    def moved(served: ServedTarget) -> ServedTarget:
        return served.model_copy(update={"endpoints": endpoints}) if served.target == target else served

    update: dict[str, object] = {
        "active": moved(route.active) if route.active is not None else None,
        "previous": moved(route.previous) if route.previous is not None else None,
        "history": tuple(moved(served) for served in route.history),
        "suspended": tuple(entry.model_copy(update={"served": moved(entry.served)}) for entry in route.suspended),
    }
    if route.canary is not None:
        returns = route.canary.returns
        if returns is not None:
            returns = returns.model_copy(update={"served": moved(returns.served)})
        canary = {"served": moved(route.canary.served), "returns": returns}
        update["canary"] = route.canary.model_copy(update=canary)
    if route.shadow is not None:
        update["shadow"] = route.shadow.model_copy(update={"served": moved(route.shadow.served)})
    changed = route.model_copy(update=update)
    if changed == route:
        return EditRefused("stale_epoch", f"{route.model} has no target {target} any more; there is nothing to move.")
    return Changed(changed.model_copy(update=_next_note(route, cause_id)), "restore")


def _next(route: Route, cause_id: str) -> dict[str, object]:
    """Return the fields that change with every edit."""
    return {"epoch": route.epoch + 1, "moves": 0, "cause_id": cause_id, "edit_cause_id": ""}


def _next_note(route: Route, cause_id: str) -> dict[str, object]:
    """Return the fields that change with every edit that keeps earlier orders valid."""
    return {**_next(route, cause_id), "moves": route.moves + 1, "edit_cause_id": route.last_edit_id}


def _behind(
    candidates: Sequence[ServedTarget | None], active: Target | None, barred: Collection[Target]
) -> dict[str, ServedTarget | tuple[ServedTarget, ...] | None]:
    """Return `previous` and `history`, newest first: each target once, without the active one.

    Barred targets are left out: a later rollback would activate them.
    """
    by_target: dict[Target, ServedTarget] = {}
    for served in candidates:
        if served is not None and served.target != active and served.target not in barred:
            by_target.setdefault(served.target, served)
    behind = tuple(by_target.values())
    return {"previous": behind[0] if behind else None, "history": behind[1 : HISTORY_KEPT + 1]}
