"""Read the route of a model in production or staging, and the targets that it serves."""

from nats.js import JetStreamContext

from clients.cli.output import CommandError
from clients.cli.reading import RecordsOfModels
from contracts.routes import Route
from contracts.vocabulary import Environment, Target
from decisions.rollback.rule import describe_protection
from decisions.rollback.suspensions import describe_away, describe_suspended

BUCKETS: dict[Environment, str] = {"production": "routes", "staging": "staging-routes"}


async def read_route(js: JetStreamContext, model: str, environment: Environment = "production") -> Route | None:
    """Return the route of a model, or None if there is none."""
    return await RecordsOfModels(js, BUCKETS[environment], Route).get(model)


async def read_suspended(js: JetStreamContext, model: str | None = None) -> list[str]:
    """Return sentences on the suspended versions of a model, or of all models."""
    records = RecordsOfModels(js, BUCKETS["production"], Route)
    found = list((await records.all()).values()) if model is None else [await records.get(model)]
    return [sentence for route in found if route is not None for sentence in tell_suspended(route)]


def tell_suspended(route: Route) -> list[str]:
    """Return sentences on the suspended versions of a route, their protection, and a canary without traffic."""
    suspended = [
        f"{entry.served.target} is suspended since {entry.since:%Y-%m-%d %H:%M:%S} UTC ({entry.cause}), "
        f"{describe_suspended(route, entry)}"
        for entry in route.suspended
    ]
    return [*suspended, *filter(None, (describe_protection(route), describe_away(route)))]


def active_target(route: Route | None, model: str, environment: Environment = "production") -> Target:
    """Return the active target.

    Raises:
        CommandError: The model has no active target.
    """
    if route is None or route.active is None:
        where = "in staging: a rehearsal or a drill needs a staged target" if environment == "staging" else "yet"
        raise CommandError(f"no target serves {model} {where}; see `slipway routes`")
    return route.active.target
