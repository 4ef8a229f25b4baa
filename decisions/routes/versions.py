"""Questions to a route: the versions that it names and serves, the newer of two, whether an epoch is its own."""

from collections.abc import Collection

from contracts.routes import Route


def versions_on(route: Route | None) -> set[int]:
    """Return the versions that a route names: those in traffic, and those that a rollback may bring back."""
    if route is None:
        return set()
    suspended = (entry.served for entry in route.suspended)
    return versions_served(route) | {served.target.version for served in (*route.history, *suspended)}


def versions_served(route: Route | None) -> set[int]:
    """Return the versions that take requests, and the one that the next rollback brings back."""
    if route is None:
        return set()
    canary = route.canary.served if route.canary is not None else None
    shadow = route.shadow.served if route.shadow is not None else None
    served = [route.active, canary, shadow, route.previous]
    return {target.target.version for target in served if target is not None}


def without_policy(route: Route | None, known: Collection[str]) -> tuple[int, ...]:
    """Return the served versions whose policies are not among those known by version; the base model (0) has none."""
    return tuple(sorted(version for version in versions_served(route) if version and str(version) not in known))


def newest(known: Route | None, stored: Route | None) -> Route | None:
    """Return the newer of a remembered route and the route that the bucket holds now.

    The epoch decides. A revision does not: a bucket that was restored or created again counts its revisions from the
    beginning. Two different routes of one epoch mean that a restored bucket was edited before the newer route was
    written back: the stored one is returned, unless it sends traffic to a target that the remembered one bars.
    """
    if known is None or stored is None:
        return stored or known
    if stored.epoch != known.epoch:
        return stored if stored.epoch > known.epoch else known
    return known if revives_barred(stored, known) else stored


def revives_barred(stored: Route, known: Route) -> bool:
    """Return whether a route sends traffic, or what callers asked, to a target that another route bars."""
    asked = (*stored.in_traffic, stored.shadowed)
    return any(served is not None and known.is_barred(served.target) for served in asked)


def is_of(route: Route, epoch: int) -> bool:
    """Return whether an epoch is that of a route, or one since which no traffic has changed."""
    return route.epoch - route.moves <= epoch <= route.epoch
