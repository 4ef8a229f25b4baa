"""The desired production state of a model, and the only two functions that edit it (design, section 5, rule 7)."""

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
    older: tuple[ServedTarget, ...] = ()
    barred: tuple[Target, ...] = ()
    cause_id: str = ""

    def is_barred(self, target: Target) -> bool:
        """Tell whether a target was rolled back and not allowed again since."""
        return target in self.barred


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

    code: Literal["stale_epoch", "barred", "no_hot_previous"]
    reason: str


Edit = Changed | AlreadyApplied | Refused
OLDER_KEPT = 5


def promote(
    route: Route, served: ServedTarget, *, weight_ratio: float, epoch: int, cause_id: str,
    fallback: ServedTarget | None = None,
) -> Edit:  # fmt: skip
    """Give a target a share of production traffic; 1.0 makes it the active one and the active one previous.

    `fallback` becomes previous when nothing was active before (the base model, if the policy says so).
    """
    target = served.target
    if cause_id == route.cause_id:
        return AlreadyApplied(route)
    if route.is_barred(target):
        return Refused("barred", f"{target} was rolled back and is barred; lift the quarantine first.")
    if epoch != route.epoch:
        return Refused("stale_epoch", f"The order was made for epoch {epoch}, the route is at {route.epoch}.")
    step = {"epoch": route.epoch + 1, "cause_id": cause_id}
    if weight_ratio < 1.0:
        canary = CanaryShare(served=served, weight_ratio=weight_ratio)
        return Changed(route.model_copy(update={**step, "canary": canary}), "canary")
    if route.active is not None and route.active.target == target:
        return Changed(route.model_copy(update={**step, "active": served, "canary": None}), "promote")
    previous = route.active or fallback
    older = tuple(
        one
        for one in ((route.previous, *route.older) if route.active else route.older)
        if one is not None and one.target != target and (previous is None or one.target != previous.target)
    )[:OLDER_KEPT]
    update = {**step, "active": served, "canary": None, "previous": previous, "older": older}
    return Changed(route.model_copy(update=update), "promote")


def roll_back(route: Route, failed: Target, *, cause_id: str) -> Edit:
    """Take a failed target out of production and bar it.

    A failing canary goes to weight 0; a failing active hands over to previous, which aborts any canary.
    """
    if cause_id == route.cause_id:
        return AlreadyApplied(route)
    barred = route.barred if route.is_barred(failed) else (*route.barred, failed)
    step = {"epoch": route.epoch + 1, "cause_id": cause_id, "barred": barred}
    if route.canary is not None and route.canary.served.target == failed and route.canary.weight_ratio > 0.0:
        canary = CanaryShare(served=route.canary.served, weight_ratio=0.0)
        return Changed(route.model_copy(update={**step, "canary": canary}), "abort")
    if route.active is None or route.active.target != failed:
        return Refused("stale_epoch", f"{failed} is neither active nor canary of {route.model}; nothing to take back.")
    if route.previous is None:
        return Refused("no_hot_previous", f"{route.model} has no previous target to go back to.")
    older = tuple(one for one in route.older if one.target not in barred and one.target != route.previous.target)
    update = {
        **step, "active": route.previous, "canary": None,
        "previous": older[0] if older else None, "older": older[1:],
    }  # fmt: skip
    return Changed(route.model_copy(update=update), "rollback")
