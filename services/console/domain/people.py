"""Who a person is, and which orders the person may give. Pure."""

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
    "lift": f.QuarantineLifted,
}
"""Orders by the name that pages have for them."""


@dataclass(frozen=True)
class Person:
    """A person who is signed in.

    Attributes:
        models: The models that the person may see and act on; None for all.
        orders: Names of the orders that the roles allow and that the console has a credential for.
        hint: Why no order can be given although the roles allow some; empty otherwise.
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
        """Return whether the person may acknowledge incidents of a model, which is no order and needs no credential."""
        return "rollback" in orders_of(self.roles) and self.sees(model)

    def may(self, order: str, model: str) -> bool:
        """Return whether the person may give an order about a model."""
        return order in self.orders and self.sees(model)


def person_of(identity: Identity, teams: Iterable[Team], *, has_credential: bool) -> Person:
    """Return a person's rights: those of the roles if the console has the person's credential."""
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
    """Return the names of the orders that roles allow; an administrator may give all."""
    given = tuple(roles)
    if "administrator" in given:
        return frozenset(ORDERS)
    allowed = {fact for role in given for fact in PUBLISHED_BY[role]}
    return frozenset(name for name, fact in ORDERS.items() if fact in allowed)
