"""What the endpoints of a fleet have free, and whether targets fit where they belong."""

from collections.abc import Iterable, Mapping

from contracts.vocabulary import Deployable
from services.server_manager.domain.reconcile import Limits


def fits(sizes: Mapping[str, int], homes: Mapping[str, str], limits: Limits) -> bool:
    """Return whether every memory of the fleet has what these targets need.

    Args:
        sizes: what each target reserves, by name.
        homes: the endpoint of each.
        limits: the endpoints and their memory.
    """
    needed = limits.by_pool((homes.get(name, ""), size) for name, size in sizes.items())
    return all(size <= limits.pool_bytes(pool) for pool, size in needed.items())


def describe_measured(targets: Iterable[Deployable], limits: Limits) -> str:
    """Return what targets reserve and what was measured of them, as a sentence; nothing where nothing was measured."""
    parts = [
        f"{target.target} reserves {limits.reserved_bytes(target)} bytes and was measured with {measured}"
        for target in targets
        if (measured := limits.measured.get(target.manifest.digest))
    ]
    return f" Of the targets, {'; '.join(parts)}: the larger one counts." if parts else ""


def describe_free(others: Mapping[str, int], homes: Mapping[str, str], limits: Limits) -> str:
    """Return what each endpoint has free beside other targets, as a sentence; nothing if the fleet has one endpoint."""
    if len(limits.endpoints) == 1:
        return ""
    taken = limits.by_pool((homes.get(name, ""), size) for name, size in others.items())
    by_pool: dict[str, list[str]] = {}
    for endpoint in limits.endpoints:
        by_pool.setdefault(limits.pool(endpoint), []).append(endpoint)
    parts = [
        f"{' and '.join(names)} {'has' if len(names) == 1 else 'share'} {limits.pool_bytes(pool)} bytes with "
        f"{max(0, limits.pool_bytes(pool) - taken[pool])} free"
        for pool, names in by_pool.items()
    ]
    return f" Of the endpoints, {'; '.join(parts)}."
