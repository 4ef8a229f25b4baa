"""The desired production state of a model; `decisions.routes.edits` has the only functions that edit it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .vocabulary import MAX_COPIES, Contract, Deployable, Instant, ModelName, OnlyFor, StoredRecord, Target


class ServedTarget(Deployable):
    """A target that is loaded and answers, with everything that a gateway needs to send requests to it.

    Attributes:
        endpoints: Where gateways reach it; they share the requests among these.
        pair_ratio: Share of requests that a canary and the active version are both asked, from its release's policy.
        copies: On how many endpoints it is to be loaded, from its release's policy; fewer where no memory is free.
    """

    endpoints: Annotated[tuple[str, ...], Field(min_length=1)]
    chat_template: str | None = None
    bos_token: str | None = None
    eos_token: str | None = None
    context_tokens: int = 2048
    pair_ratio: Annotated[float, Field(ge=0.0, le=0.5)] = 0.02
    copies: Annotated[int, Field(ge=1, le=MAX_COPIES)] = 1


class CanaryShare(Contract):
    """A target that takes a share of production traffic as a canary; weight 0 means that it was aborted.

    Attributes:
        only_for: Whose requests are drawn for it, and asked of both versions; empty for everyone's.
        away_until: Until then it takes no traffic, so that the active version is seen without it.
        times_away: How often its traffic was taken away since this share began.
        returns: The suspension that it returns from; without all traffic, it goes back there. None for a candidate.
    """

    served: ServedTarget
    weight_ratio: Annotated[float, Field(ge=0.0, lt=1.0)]
    only_for: OnlyFor = ()
    away_until: Annotated[Instant | None, Field(exclude_if=lambda until: until is None)] = None
    times_away: Annotated[int, Field(ge=0, exclude_if=lambda times: times == 0)] = 0
    returns: Annotated[Suspended | None, Field(exclude_if=lambda returns: returns is None)] = None


class ShadowShare(Contract):
    """A target without traffic that gets copies of a share of the active target's requests; 0: aborted."""

    served: ServedTarget
    share_ratio: Annotated[float, Field(ge=0.0, le=1.0)]


class Suspended(Contract):
    """A target that an alert's rollback took out of traffic: it stays loaded until a verdict or a person's decision.

    Attributes:
        cause: The alert that moved traffic.
        since: Time of the move.
        trigger: The trigger of that alert, if the target's shadow can judge it; else empty, and a person decides.
        verdict: Verdict of its shadow; None before. A confirmed target is quarantined.
        evidence: The figures of the verdict.
        returned_by: Id of the event that returns it, as a new release; empty if it does not return.
    """

    served: ServedTarget
    cause: str
    since: Instant
    trigger: str = ""
    verdict: Literal["cleared", "undecided"] | None = None
    evidence: str = ""
    returned_by: Annotated[str, Field(exclude_if=lambda cause_id: not cause_id)] = ""


class Returned(Contract):
    """A target that came back, or was let, after it was suspended."""

    target: Target
    at: Instant


RouteRole = Literal["active", "canary", "shadow", "previous"]


class Route(StoredRecord):
    """The targets that serve production for one model, and their shares.

    Attributes:
        epoch: Rises with every change.
        moves: How many of the last changes gave targets other endpoints, said more of suspended ones, or took traffic
            of a canary away for a minute, one after the other. An order that names its target counts for the epochs
            before them, too.
        shadow: The candidate that is asked what callers asked, before it takes traffic.
        previous: The target that a rollback goes to; it stays loaded.
        history: Targets that were active before `previous`, newest first.
        quarantined: Targets that were rolled back and take no traffic until their quarantine is lifted.
        suspended: Targets that an alert took out of traffic, newest first.
        returned: The last of them that returned; by itself each does once.
        cause_id: Id of the event that caused the last change.
        edit_cause_id: Id of the event that caused the last change before the moves; empty without moves.
    """

    model: ModelName
    epoch: Annotated[int, Field(ge=0)] = 0
    moves: Annotated[int, Field(ge=0)] = 0
    active: ServedTarget | None = None
    canary: CanaryShare | None = None
    shadow: Annotated[ShadowShare | None, Field(exclude_if=lambda shadow: shadow is None)] = None
    previous: ServedTarget | None = None
    history: tuple[ServedTarget, ...] = ()
    quarantined: tuple[Target, ...] = ()
    suspended: Annotated[tuple[Suspended, ...], Field(exclude_if=lambda suspended: not suspended)] = ()
    returned: Annotated[tuple[Returned, ...], Field(exclude_if=lambda returned: not returned)] = ()
    cause_id: str = ""
    edit_cause_id: str = ""

    @property
    def last_edit_id(self) -> str:
        """Id of the event that caused the last change that was no move; empty if that is not known."""
        return self.edit_cause_id if self.moves else self.cause_id

    @property
    def canary_in_traffic(self) -> CanaryShare | None:
        """The canary that answers a share of the callers; None without one."""
        canary = self.canary
        return None if canary is None or not canary.weight_ratio or self.is_barred(canary.served.target) else canary

    @property
    def by_role(self) -> dict[RouteRole, ServedTarget]:
        """The active, canary, shadow and previous targets by role, in this order."""
        canary = self.canary_in_traffic
        served = (self.active, canary.served if canary is not None else None, self.shadowed, self.previous)
        roles: tuple[RouteRole, ...] = ("active", "canary", "shadow", "previous")
        return {role: target for role, target in zip(roles, served) if target is not None}

    @property
    def in_traffic(self) -> tuple[ServedTarget, ...]:
        """The targets that answer callers: the active one first, then the canary."""
        return tuple(target for role, target in self.by_role.items() if role in ("active", "canary"))

    @property
    def shadowed(self) -> ServedTarget | None:
        """The candidate that gets copies of callers' requests; None without one."""
        shadow = self.shadow
        usable = shadow is not None and shadow.share_ratio > 0.0 and not self.is_barred(shadow.served.target)
        return shadow.served if shadow is not None and usable else None

    @property
    def judged(self) -> Suspended | None:
        """The newest suspended target that its shadow judges; None while a candidate is in the shadow."""
        if self.shadowed is not None:
            return None
        return next((entry for entry in self.suspended if entry.trigger and entry.verdict is None), None)

    def takes_traffic(self, target: Target) -> bool:
        """Return whether a target answers callers."""
        return any(served.target == target for served in self.in_traffic)

    def is_quarantined(self, target: Target) -> bool:
        """Return whether a target is quarantined."""
        return target in self.quarantined

    def suspension(self, target: Target) -> Suspended | None:
        """Return the suspension of a target; None if it is not suspended."""
        return next((entry for entry in self.suspended if entry.served.target == target), None)

    def is_barred(self, target: Target) -> bool:
        """Return whether a target must take no traffic: it is quarantined or suspended."""
        return self.is_quarantined(target) or self.suspension(target) is not None
