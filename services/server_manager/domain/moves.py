"""Targets that are loaded elsewhere than their route says, and copies that are left on another endpoint."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from contracts.routes import Route, ServedTarget
from contracts.vocabulary import Deployable, Target
from decisions.serving.runtimes import runtime_name
from services.server_manager.domain.reconcile import Held, Key, Limits, Phase, production_of

MOVED = "moved-"
"""Beginning of the cause of a route whose target was loaded on another endpoint than before."""


@dataclass(frozen=True)
class Move:
    """A pending change of the endpoints that a route names for a target."""

    model: str
    target: Target
    endpoints: tuple[str, ...]
    epoch: int

    @property
    def cause_id(self) -> str:
        """Id of the cause of the route after the move; ids are bounded, and addresses are many and long."""
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
    """Return the pending moves: targets whose route must name other endpoints, at most one per model.

    Args:
        routes: the routes by model.
        held: the targets held.
        addresses: the address at which gateways reach each endpoint, by its name.
        limits: the endpoints and their runtimes.
        transferred: the endpoint on which a target generates as well and is to be served, by its name.
        removed: addresses of endpoints that are no longer configured.
        copy_homes: the endpoints on which each target is to be loaded beside its home.
        ready: the endpoints on which copies of it generate.
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
            break  # the next one is of the next epoch
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
    """Return the endpoints that a route is to name for a target, by name; None if it names them.

    Those that it names stay while they are to have the target, also while they do not answer: gateways send them
    nothing then. One that is to have it no more stays until what replaces it generates. The order is kept.
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
    """Return the production targets whose route names only removed endpoints, each with the first of them."""
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
    copies: Iterable[Key],
    held: Mapping[str, Held],
    named: Mapping[str, tuple[str, ...]],
    usable: Collection[str],
    kept: Collection[str] = (),
) -> set[Key]:
    """Return the unneeded copies: their target generates elsewhere, and no route may name the copy.

    A route that is absent says nothing about what serves, so a copy of what is in `kept` stays, like the target.
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
