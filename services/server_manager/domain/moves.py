"""Plans moves, updates of a route to the endpoints where its targets are loaded, and copies to unload."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from contracts.routes import Route, ServedTarget
from contracts.vocabulary import Deployable, Target
from decisions.serving.runtimes import runtime_name
from services.server_manager.domain.reconcile import Held, Key, Limits, Phase, production_of

MOVED = "moved-"
"""Prefix of a route's `cause_id` after a move."""


@dataclass(frozen=True)
class Move:
    """A pending change of a target's endpoints in its route; `endpoints` are names, or addresses if attached."""

    model: str
    target: Target
    endpoints: tuple[str, ...]
    epoch: int

    @property
    def cause_id(self) -> str:
        """The route's `cause_id` after the move, with a digest of the endpoints to bound its length."""
        endpoints = hashlib.sha256("+".join(self.endpoints).encode()).hexdigest()[:16]
        return f"{MOVED}{self.target}-{endpoints}-{self.epoch}"


def plan_moves(
    routes: Mapping[str, Route],
    held: Mapping[str, Held],
    addresses: Mapping[str, str],
    limits: Limits,
    *,
    transferred: Mapping[str, str] | None = None,
    removed: Collection[str] = (),
    copy_homes: Mapping[str, tuple[str, ...]] | None = None,
    ready: Mapping[str, tuple[str, ...]] | None = None,
    attached: Callable[[Deployable], tuple[str, ...]] = lambda _target: (),
) -> list[Move]:
    """Return the pending moves, at most one per model.

    Args:
        routes: the routes by model.
        held: the targets by name.
        addresses: the address for gateways, by endpoint name.
        limits: the endpoints and their runtimes.
        transferred: the endpoint with the ready copy of a transferred target, by target name.
        removed: addresses of endpoints that are no longer configured.
        copy_homes: planned endpoints of copies, by target name.
        ready: endpoints with ready copies, by target name.
        attached: returns the addresses of the attached servers that serve a target.
    """
    moves = []
    for model, route in sorted(routes.items()):
        for served in production_of(route):
            name = str(served.target)
            state = held.get(name)
            if model in limits.attached:
                urls = attached(served)
                is_ready = state is not None and state.phase is Phase.READY
                if is_ready and urls and set(urls) != set(served.endpoints):
                    moves.append(Move(model, served.target, urls, route.epoch))
                    break
                continue
            alone = [*limits.endpoints.values()].count(runtime_name(served.serving)) < 2
            home = (transferred or {}).get(name)
            if home is None and state is not None and state.phase is Phase.READY:
                home = state.endpoint
            is_fixed = alone and not set(removed).issuperset(served.endpoints)
            if is_fixed or home is None:
                continue
            serving = _serving(
                served,
                home,
                copy_homes=(copy_homes or {}).get(name, ()),
                ready=(ready or {}).get(name, ()),
                addresses=addresses,
                removed=removed,
            )
            if serving is None:
                continue
            moves.append(Move(model, served.target, serving, route.epoch))
            break  # the next move needs the next epoch
    return moves


def _serving(
    served: ServedTarget,
    home: str,
    *,
    copy_homes: Collection[str],
    ready: Collection[str],
    addresses: Mapping[str, str],
    removed: Collection[str],
) -> tuple[str, ...] | None:
    """Return the names of the endpoints that a route should have for a target; None if it has them.

    Endpoints in the route stay while the target is planned there, even if they are silent: gateways eject those. Other
    endpoints stay until their replacement generates. The order is kept.
    """
    names = {address: name for name, address in addresses.items()}
    named = [names[address] for address in served.endpoints if address in names]
    due = [home, *(endpoint for endpoint in copy_homes if endpoint != home)]
    generating = {home, *ready}
    missing = sum(1 for endpoint in due if endpoint not in named and endpoint not in generating)
    staying = [endpoint for endpoint in named if endpoint in due]
    leaving = [endpoint for endpoint in named if endpoint not in due and endpoint in generating][:missing]
    serving = list(dict.fromkeys([*staying, *(endpoint for endpoint in due if endpoint in generating), *leaving]))
    has_others = any(address in removed or names.get(address) not in (None, *serving) for address in served.endpoints)
    if set(serving) <= set(named) and not has_others:
        return None
    return tuple(serving)


def find_removed(routes: Mapping[str, Route], removed: Collection[str]) -> dict[str, str]:
    """Return the production targets with only removed endpoints in their route: first address by target name."""
    return {
        str(served.target): served.endpoints[0]
        for route in routes.values()
        for served in production_of(route)
        if set(removed).issuperset(served.endpoints)
    }


def find_unpublished(routes: Mapping[str, Route], answered: Collection[str]) -> list[Route]:
    """Return the routes last changed by a move that is not published yet."""
    return [route for route in routes.values() if route.cause_id.startswith(MOVED) and route.cause_id not in answered]


def find_removable(
    copies: Iterable[Key],
    held: Mapping[str, Held],
    named: Mapping[str, tuple[str, ...]],
    usable: Collection[str],
    kept: Collection[str] = (),
) -> set[Key]:
    """Return the copies to unload: their target generates elsewhere, and no route names the copy.

    Copies of targets in `kept` stay: their route may be lost.
    """
    return {
        (endpoint, name)
        for endpoint, name in copies
        if endpoint in usable
        and name not in kept
        and name in held
        and held[name].phase is Phase.READY
        and (not named.get(name) or (endpoint not in named[name] and held[name].endpoint in named[name]))
    }
