"""People and the orders that they may give. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from contracts import facts as f
from contracts.facts import Fact
from contracts.identities import PUBLISHED_BY, Identity, Role
from contracts.teams import Team
from decisions.access.teams import narrowed

ORDERS: Final[dict[str, type[Fact]]] = {
    "approve": f.ApprovalGranted,
    "reject": f.ApprovalDenied,
    "cancel": f.ReleaseCancelled,
    "hold": f.ReleaseHeld,
    "promote": f.CanaryAdvanced,
    "rollback": f.RollbackOrdered,
}
"""Types of orders by their names on pages."""


@dataclass(frozen=True)
class Person:
    """A signed-in person.

    Attributes:
        models: Models that the person may see and act on; None for all.
        orders: Orders that the roles allow, if the console holds the person's credential.
        hint: Why the person cannot order despite the roles; empty otherwise.
    """

    name: str
    roles: tuple[Role, ...]
    team: str | None = None
    models: tuple[str, ...] | None = None
    orders: frozenset[str] = frozenset()
    hint: str = ""

    def sees(self, model: str) -> bool:
        """Return whether the person may see a model."""
        return self.models is None or model in self.models

    def acknowledges(self, model: str) -> bool:
        """Return whether the person may acknowledge a model's incidents, for which the console needs no credential."""
        return "rollback" in orders_of(self.roles) and self.sees(model)

    def may(self, order: str, model: str) -> bool:
        """Return whether the person may give an order about a model."""
        return order in self.orders and self.sees(model)


def person_of(identity: Identity, teams: Iterable[Team], *, has_credential: bool) -> Person:
    """Return a person with the orders of the roles, or none if the console lacks the person's credential."""
    known = narrowed(identity, teams)
    allowed = orders_of(identity.roles)
    hint = ""
    if allowed and not has_credential:
        hint = f"the console has no credential of {identity.name}: give orders with `slipway`"
    return Person(
        name=identity.name,
        roles=identity.roles,
        team=identity.team,
        models=known.models if identity.team is not None else None,
        orders=allowed if has_credential else frozenset(),
        hint=hint,
    )


def orders_of(roles: Iterable[Role]) -> frozenset[str]:
    """Return the orders that roles allow; an administrator may give all."""
    given = tuple(roles)
    if "administrator" in given:
        return frozenset(ORDERS)
    allowed = {fact for role in given for fact in PUBLISHED_BY[role]}
    return frozenset(name for name, fact in ORDERS.items() if fact in allowed)
