"""Targets that stay loaded though none is requested, and those loaded for a lease or an order only."""

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

    What was loaded before a lease or an order asked for it is not among them: it may be production of a model whose
    route is lost. What a route names is production from then on.

    Args:
        record: names the ones so far.
        routes: what production keeps.
        desired: everything that should be loaded.
        held: the targets as this process knows them.
        listed: what the engine has just listed as loaded or under way, which `held` may lack; None when it did not
            list: then none is left out because it is gone.
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
    """Return the targets that are never unloaded.

    A route that is absent says nothing about what serves: the bucket may have been lost or emptied. Of such a model all
    stays but for temporary targets. Of one whose route cannot be read these stay too: it may name them by now.

    Args:
        routes: the models whose route is known.
        unreadable: the models whose route exists and cannot be read.
        temporary: what was loaded for a lease or an order only.
        held: what the fleet holds.
    """
    passing = {str(target) for target in temporary}

    def stays(name: str) -> bool:
        model = name.split(".", maxsplit=1)[0]
        return model in unreadable or (model not in routes and name not in passing)

    return frozenset(name for name in held if stays(name))
