"""Read the route of a model in production or staging, and the targets that it serves."""

from nats.js import JetStreamContext

from clients.cli.output import CommandError
from clients.cli.reading import RecordsOfModels
from contracts.routes import Route
from contracts.vocabulary import Environment, Target

BUCKETS: dict[Environment, str] = {"production": "routes", "staging": "staging-routes"}


async def read_route(js: JetStreamContext, model: str, environment: Environment = "production") -> Route | None:
    """Return the route of a model, or None if there is none."""
    return await RecordsOfModels(js, BUCKETS[environment], Route).get(model)


def serving(route: Route | None) -> tuple[Target, ...]:
    """Return the targets that take traffic: the active one first, then a canary."""
    if route is None:
        return ()
    canary = route.canary.served if route.canary is not None and route.canary.weight_ratio > 0.0 else None
    return tuple(served.target for served in (route.active, canary) if served is not None)


def active_target(route: Route | None, model: str, environment: Environment = "production") -> Target:
    """Return the active target.

    Raises:
        CommandError: no target serves the model.
    """
    if route is None or route.active is None:
        where = "in staging: a rehearsal or a drill needs a staged target" if environment == "staging" else "yet"
        raise CommandError(f"no target serves {model} {where}; see `slipway routes`")
    return route.active.target
