"""Targets that must stay loaded although not desired, and targets loaded only for a lease or order."""

from collections.abc import Collection, Mapping

from contracts.routes import Route
from contracts.vocabulary import Target
from services.server_manager.domain.reconcile import Desired, Rank, plan_standing
from services.server_manager.domain.records import Servers


def plan_temporary(
    record: Servers,
    routes: Mapping[str, Route],
    desired: Mapping[str, Desired],
    held: Collection[str],
    listed: Collection[str] | None = (),
) -> tuple[Target, ...]:
    """Return the targets that are loaded only for a staging lease or a traffic order.

    Targets loaded before their lease or order are excluded: they may be production of a model with a lost route. A
    target in a route is production from then on.

    Args:
        record: the record with the temporary targets so far.
        routes: routes by model.
        desired: all targets to load, by name.
        held: names of targets known to this process.
        listed: names that engines list as loaded, loading or unloading; None if an index is missing: then no target
            counts as gone.
    """
    names = {
        name: target
        for target in record.temporary
        if (name := str(target)) in desired or name in held or listed is None or name in listed
    }
    for name, target in desired.items():
        if target.rank is not Rank.PRODUCTION and name not in held:
            names[name] = target.deployable.target
    standing = plan_standing(routes)
    return tuple(names[name] for name in sorted(names) if name not in standing)


def plan_kept(
    routes: Collection[str], unreadable: Collection[str], temporary: Collection[Target], held: Collection[str]
) -> frozenset[str]:
    """Return the names of targets that must not be unloaded.

    A missing route does not prove that a model is unused: the bucket may be lost. Its targets stay, except temporary
    ones. If the route is unreadable, temporary targets stay, too, because it may name them.

    Args:
        routes: models with known routes.
        unreadable: models with unreadable routes.
        temporary: targets loaded only for a lease or order.
        held: names of the fleet's targets.
    """
    passing = {str(target) for target in temporary}

    def stays(name: str) -> bool:
        model = name.split(".", maxsplit=1)[0]
        return model in unreadable or (model not in routes and name not in passing)

    return frozenset(name for name in held if stays(name))
