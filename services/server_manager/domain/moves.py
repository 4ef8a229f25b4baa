"""Targets that are loaded elsewhere than their route says, and copies that are left on another endpoint."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from contracts.routes import Route
from contracts.vocabulary import Target
from decisions.runtimes import runtime_name
from services.server_manager.domain.reconcile import Held, Limits, Phase, production_of

MOVED = "moved-"
"""Beginning of the cause of a route whose target was loaded on another endpoint than before."""


@dataclass(frozen=True)
class Copy:
    """A target that an endpoint may still hold, though it is held on another one."""

    endpoint: str
    name: str
    memory_bytes: int


@dataclass(frozen=True)
class Move:
    """A route is to name another endpoint for a target."""

    model: str
    target: Target
    endpoint: str
    epoch: int

    @property
    def cause_id(self) -> str:
        """Id of the cause of the route after the move."""
        return f"{MOVED}{self.target}-{self.endpoint}-{self.epoch}"


def moved_prefix(model: str) -> str:
    """Return how the causes of all moves of a model begin."""
    return f"{MOVED}{model}."


def plan_moves(
    routes: Mapping[str, Route],
    held: Mapping[str, Held],
    addresses: Mapping[str, str],
    limits: Limits,
    *,
    transferred: Mapping[str, str] | None = None,
    removed: Collection[str] = (),
) -> list[Move]:
    """Return the targets that generate on an endpoint which their route does not name, where their runtime has several.

    Args:
        routes: the routes by model.
        held: what is held.
        addresses: the address at which gateways reach each endpoint, by its name.
        limits: the endpoints and their runtimes.
        transferred: the endpoint on which a target generates besides, by its name, where it is to be served there.
        removed: addresses of endpoints that the fleet had and that are not configured any more.
    """
    moves = []
    for model, route in sorted(routes.items()):
        for served in production_of(route):
            state = held.get(str(served.target))
            alone = [*limits.endpoints.values()].count(runtime_name(served.serving)) < 2
            home = (transferred or {}).get(str(served.target))
            if home is None and state is not None and state.phase is Phase.READY:
                home = state.endpoint
            is_fixed = alone and not set(removed).issuperset(served.endpoints)
            if is_fixed or home is None or addresses[home] in served.endpoints:
                continue
            moves.append(Move(model, served.target, home, route.epoch))
            break  # the next one is of the next epoch
    return moves


def find_removed(routes: Mapping[str, Route], removed: Collection[str]) -> dict[str, str]:
    """Return the targets of production whose route names only endpoints that were removed, each with the first one."""
    return {
        str(served.target): served.endpoints[0]
        for route in routes.values()
        for served in production_of(route)
        if set(removed).issuperset(served.endpoints)
    }


def find_unpublished(routes: Mapping[str, Route], answered: Collection[str]) -> list[Route]:
    """Return the routes that a move has changed and whose fact is not published yet."""
    return [route for route in routes.values() if route.cause_id.startswith(MOVED) and route.cause_id not in answered]


def find_removable(
    copies: Iterable[Copy],
    held: Mapping[str, Held],
    named: Mapping[str, str],
    usable: Collection[str],
    kept: Collection[str] = (),
) -> list[Copy]:
    """Return the copies that nothing needs any more: their target generates elsewhere, and no route may name the copy.

    A route that is absent says nothing about what serves, so a copy of what is in `kept` stays, like the target.
    """
    return [
        copy
        for copy in copies
        if copy.endpoint in usable
        and copy.name not in kept
        and copy.name in held
        and held[copy.name].phase is Phase.READY
        and named.get(copy.name) in {None, held[copy.name].endpoint}
    ]
