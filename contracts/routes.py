"""Routes: the desired production state of a model, edited by `decisions.routes.edits` only."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .vocabulary import MAX_COPIES, Contract, Deployable, Instant, ModelName, OnlyFor, StoredRecord, Target


class ServedTarget(Deployable):
    """A loaded target with the data that gateways need.

    Attributes:
        endpoints: Addresses for gateways, which balance requests among them.
        pair_ratio: Share of requests that a canary and the active version are both asked again, by its policy.
        copies: Number of endpoints to load it on by its policy, fewer without free memory.
    """

    endpoints: Annotated[tuple[str, ...], Field(min_length=1)]
    chat_template: str | None = None
    bos_token: str | None = None
    eos_token: str | None = None
    context_tokens: int = 2048
    pair_ratio: Annotated[float, Field(ge=0.0, le=0.5)] = 0.02
    copies: Annotated[int, Field(ge=1, le=MAX_COPIES)] = 1


class CanaryShare(Contract):
    """A canary with its share of production traffic; weight 0: aborted.

    Attributes:
        only_for: Callers with requests for the canary; empty for all.
        away_until: Time until which it takes no traffic, to observe the active version without it.
        times_away: Number of times that its traffic was taken away at this share.
        returns: Suspension of a returning version, restored if its canary ends without promotion; None for a candidate.
    """

    served: ServedTarget
    weight_ratio: Annotated[float, Field(ge=0.0, lt=1.0)]
    only_for: OnlyFor = ()
    away_until: Annotated[Instant | None, Field(exclude_if=lambda until: until is None)] = None
    times_away: Annotated[int, Field(ge=0, exclude_if=lambda times: times == 0)] = 0
    returns: Annotated[Suspended | None, Field(exclude_if=lambda returns: returns is None)] = None


class ShadowShare(Contract):
    """A target that gets copies of a share of the active target's requests, and no traffic; share 0: aborted."""

    served: ServedTarget
    share_ratio: Annotated[float, Field(ge=0.0, le=1.0)]


class Suspended(Contract):
    """A target that an alert's rollback took out of traffic; it stays loaded until a verdict or an operator's decision.

    Attributes:
        cause: Id of the alert.
        since: Time of the rollback.
        trigger: The alert's trigger if the target's shadow can judge it; empty if an operator must decide.
        verdict: Verdict of its shadow; None before one. Confirmed targets are quarantined.
        evidence: Figures of the verdict.
        returned_by: Id of the event that returns the target by a new release; empty if it does not return.
    """

    served: ServedTarget
    cause: str
    since: Instant
    trigger: str = ""
    verdict: Literal["cleared", "undecided"] | None = None
    evidence: str = ""
    returned_by: Annotated[str, Field(exclude_if=lambda cause_id: not cause_id)] = ""


class Returned(Contract):
    """The return of a suspended target, or its permission."""

    target: Target
    at: Instant


RouteRole = Literal["active", "canary", "shadow", "previous"]


class Route(StoredRecord):
    """The targets that serve production for one model, and their shares.

    Attributes:
        epoch: Number of the change, rising.
        moves: Number of last consecutive changes without another version in traffic: of endpoints, notes on suspended
            targets, or a canary's absence for a minute. Orders for the epochs before them stay valid.
        shadow: Candidate that gets copies of requests before it takes traffic.
        previous: Target of a rollback; stays loaded.
        history: Targets that were active before `previous`, newest first.
        quarantined: Targets that were taken out of traffic for good; their checkpoint comes back as another version.
        suspended: Targets that an alert took out of traffic, newest first.
        returned: The last returns of suspended targets.
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
        """Return the id of the event that caused the last change that is not a move; empty if unknown."""
        return self.edit_cause_id if self.moves else self.cause_id

    @property
    def canary_in_traffic(self) -> CanaryShare | None:
        """Return the canary if it takes traffic."""
        canary = self.canary
        return None if canary is None or not canary.weight_ratio or self.is_barred(canary.served.target) else canary

    @property
    def by_role(self) -> dict[RouteRole, ServedTarget]:
        """Return the active, canary, shadow and previous targets by role, in this order."""
        canary = self.canary_in_traffic
        served = (self.active, canary.served if canary is not None else None, self.shadowed, self.previous)
        roles: tuple[RouteRole, ...] = ("active", "canary", "shadow", "previous")
        return {role: target for role, target in zip(roles, served) if target is not None}

    @property
    def in_traffic(self) -> tuple[ServedTarget, ...]:
        """Return the targets that answer callers: active, then canary."""
        return tuple(target for role, target in self.by_role.items() if role in ("active", "canary"))

    @property
    def shadowed(self) -> ServedTarget | None:
        """Return the candidate that gets copies of requests; None without one."""
        shadow = self.shadow
        usable = shadow is not None and shadow.share_ratio > 0.0 and not self.is_barred(shadow.served.target)
        return shadow.served if shadow is not None and usable else None

    @property
    def judged(self) -> Suspended | None:
        """Return the newest suspended target that a shadow is to judge; None while a candidate is in the shadow."""
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
        """Return whether a target is quarantined or suspended."""
        return self.is_quarantined(target) or self.suspension(target) is not None
