"""Versions of routes, and comparisons of epochs."""

from collections.abc import Collection

from contracts.routes import Route


def versions_on(route: Route | None) -> set[int]:
    """Return all versions of a route, including those that a rollback may activate."""
    if route is None:
        return set()
    suspended = (entry.served for entry in route.suspended)
    return versions_served(route) | {served.target.version for served in (*route.history, *suspended)}


def versions_served(route: Route | None) -> set[int]:
    """Return the versions that get requests, and the previous version."""
    if route is None:
        return set()
    canary = route.canary.served if route.canary is not None else None
    shadow = route.shadow.served if route.shadow is not None else None
    served = [route.active, canary, shadow, route.previous]
    return {target.target.version for target in served if target is not None}


def without_policy(route: Route | None, known: Collection[str]) -> tuple[int, ...]:
    """Return the served versions without a known policy, except the base model (0)."""
    return tuple(sorted(version for version in versions_served(route) if version and str(version) not in known))


def newest(known: Route | None, stored: Route | None) -> Route | None:
    """Return the newer of a known route and the stored one, by epoch: restored buckets restart their revisions.

    Of two routes with the same epoch (a restored bucket was edited before the newer route was written back), the stored
    one is returned, unless it sends requests to a target that the known one bars.
    """
    if known is None or stored is None:
        return stored or known
    if stored.epoch != known.epoch:
        return stored if stored.epoch > known.epoch else known
    return known if revives_barred(stored, known) else stored


def revives_barred(stored: Route, known: Route) -> bool:
    """Return whether a route asks a target that another route has quarantined or suspended."""
    asked = (*stored.in_traffic, stored.shadowed)
    return any(served is not None and known.is_barred(served.target) for served in asked)


def is_of(route: Route, epoch: int) -> bool:
    """Return whether an epoch is the route's, or an earlier one with the same versions in traffic."""
    return route.epoch - route.moves <= epoch <= route.epoch
