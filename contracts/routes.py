"""The desired production state of a model, and the only functions that edit it (design, section 5, rule 7)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from .vocabulary import Contract, Deployable, ModelName, Target


class ServedTarget(Deployable):
    """A target that is loaded and answering, with all that a gateway needs to talk to it."""

    endpoints: Annotated[tuple[str, ...], Field(min_length=1)]
    chat_template: str | None = None
    bos_token: str | None = None
    eos_token: str | None = None
    context_tokens: int = 2048


class CanaryShare(Contract):
    """A target that takes a share of production traffic on trial; weight 0 has been aborted."""

    served: ServedTarget
    weight_ratio: Annotated[float, Field(ge=0.0, lt=1.0)]


class Route(Contract):
    """What serves production for one model. `epoch` rises with every change."""

    model: ModelName
    epoch: Annotated[int, Field(ge=0)] = 0
    active: ServedTarget | None = None
    canary: CanaryShare | None = None
    previous: ServedTarget | None = None
    history: tuple[ServedTarget, ...] = ()
    quarantined: tuple[Target, ...] = ()
    cause_id: str = ""

    def is_quarantined(self, target: Target) -> bool:
        """Return whether a target was rolled back and not allowed again since."""
        return target in self.quarantined


@dataclass(frozen=True)
class Changed:
    """The route was edited; `route` is what to write."""

    route: Route
    cause: Literal["promote", "canary", "abort", "rollback", "restore"]


@dataclass(frozen=True)
class AlreadyApplied:
    """This cause made the route what it is: only publish again."""

    route: Route


@dataclass(frozen=True)
class Refused:
    """The edit is not allowed, and why."""

    code: Literal["stale_epoch", "quarantined", "no_previous_target", "not_quarantined"]
    reason: str


Edit = Changed | AlreadyApplied | Refused
HISTORY_KEPT = 5


def newest(known: Route | None, found: Route | None) -> Route | None:
    """Return the newer of a route that is remembered and the one that the bucket holds now.

    The epoch decides. A revision does not: a bucket that was restored or made anew counts its revisions from the
    beginning. Two different routes of one epoch mean that a restored bucket was edited before the newer route was
    written back: the bucket's counts, unless it sends traffic to a target that the remembered one bars.
    """
    if known is None or found is None:
        return found or known
    if found.epoch != known.epoch:
        return found if found.epoch > known.epoch else known
    return known if revives_quarantined(found, known) else found


def revives_quarantined(found: Route, known: Route) -> bool:
    """Return whether a route sends traffic to a target that another route bars."""
    trial = found.canary.served if found.canary is not None and found.canary.weight_ratio > 0.0 else None
    return any(one is not None and known.is_quarantined(one.target) for one in (found.active, trial))


def promote(
    route: Route,
    served: ServedTarget,
    *,
    weight_ratio: float,
    epoch: int,
    cause_id: str,
    fallback: ServedTarget | None = None,
) -> Edit:
    """Return a target a share of production traffic; 1.0 makes it the active one and the active one previous.

    `fallback` becomes previous when nothing was active before (the base model, if the policy says so).
    """
    target = served.target
    if cause_id == route.cause_id:
        return AlreadyApplied(route)
    if route.is_quarantined(target):
        return Refused("quarantined", f"{target} was rolled back and is quarantined; lift the quarantine first.")
    if epoch != route.epoch:
        return Refused("stale_epoch", f"The order was made for epoch {epoch}, the route is at {route.epoch}.")
    step = {"epoch": route.epoch + 1, "cause_id": cause_id}
    if weight_ratio < 1.0:
        canary = CanaryShare(served=served, weight_ratio=weight_ratio)
        return Changed(route.model_copy(update={**step, "canary": canary}), "canary")
    if route.active is not None and route.active.target == target:
        return Changed(route.model_copy(update={**step, "active": served, "canary": None}), "promote")
    before = (route.active, route.previous, *route.history) if route.active else (fallback, *route.history)
    previous, older = _line_back(before, target, route.quarantined)
    update = {**step, "active": served, "canary": None, "previous": previous, "history": older}
    return Changed(route.model_copy(update=update), "promote")


def roll_back(route: Route, failed: Target, *, cause_id: str, to_version: int | None = None) -> Edit:
    """Take a failed target out of production and bar it.

    A failing canary goes to weight 0; a failing active hands over to previous, which aborts any canary. `to_version`
    goes further back, to a version in the line behind; what is skipped stays in line.
    """
    if cause_id == route.cause_id:
        return AlreadyApplied(route)
    quarantined = route.quarantined if route.is_quarantined(failed) else (*route.quarantined, failed)
    step = {"epoch": route.epoch + 1, "cause_id": cause_id, "quarantined": quarantined}
    active = route.active.target if route.active else None
    trial = route.canary if route.canary is not None and route.canary.weight_ratio > 0.0 else None
    if trial is not None and trial.served.target == failed != active:
        aborted = CanaryShare(served=trial.served, weight_ratio=0.0)
        previous, older = _line_back((route.previous, *route.history), active, quarantined)
        update = {**step, "canary": aborted, "previous": previous, "history": older}
        return Changed(route.model_copy(update=update), "abort")
    if active != failed:
        return Refused("stale_epoch", f"{failed} is neither active nor canary of {route.model}; nothing to take back.")
    if route.previous is None or route.previous.target in quarantined:
        return Refused("no_previous_target", f"{route.model} has no previous target to go back to.")
    line = [route.previous, *route.history]
    wanted = [one for one in line if to_version in (None, one.target.version) and one.target not in quarantined]
    if not wanted:
        return Refused("no_previous_target", f"{route.model} has no version {to_version} in the line behind it.")
    previous, older = _line_back(line, wanted[0].target, quarantined)
    update = {**step, "active": wanted[0], "canary": None, "previous": previous, "history": older}
    return Changed(route.model_copy(update=update), "rollback")


def lift(route: Route, target: Target, *, cause_id: str) -> Edit:
    """Allow a quarantined target again; it takes no traffic by that, and does not come back into the line behind."""
    if cause_id == route.cause_id:
        return AlreadyApplied(route)
    if not route.is_quarantined(target):
        return Refused("not_quarantined", f"{target} is not quarantined.")
    quarantined = tuple(one for one in route.quarantined if one != target)
    canary = None if route.canary is not None and route.canary.served.target == target else route.canary
    update = {"epoch": route.epoch + 1, "cause_id": cause_id, "quarantined": quarantined, "canary": canary}
    return Changed(route.model_copy(update=update), "restore")


def _line_back(
    candidates: Sequence[ServedTarget | None], active: Target | None, quarantined: Sequence[Target]
) -> tuple[ServedTarget | None, tuple[ServedTarget, ...]]:
    """Return (previous, older), newest first: each target once, never the active one, never a quarantined one.

    Whatever is quarantined must not wait in line: a later rollback would make it active again.
    """
    line: dict[Target, ServedTarget] = {}
    for one in candidates:
        if one is not None and one.target != active and one.target not in quarantined:
            line.setdefault(one.target, one)
    found = tuple(line.values())
    return (found[0] if found else None), found[1 : HISTORY_KEPT + 1]
