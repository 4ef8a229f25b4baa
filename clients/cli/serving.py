"""What serves, in production or in staging, as commands need it to name a target."""

from nats.js import JetStreamContext

from clients.cli.output import Refused
from contracts.routes import Route
from contracts.vocabulary import Environment, Target
from shared.storage.kv import Bucket

BUCKETS: dict[Environment, str] = {"production": "routes", "staging": "staging-routes"}


async def read_route(js: JetStreamContext, model: str, environment: Environment = "production") -> Route | None:
    """Read the route of a model; None where there is none."""
    entry = await Bucket(js, BUCKETS[environment], Route).get(model)
    return entry.value if entry is not None else None


def serving(route: Route | None) -> tuple[Target, ...]:
    """List the targets that take traffic: the active one first, then a canary on trial."""
    if route is None:
        return ()
    canary = route.canary.served if route.canary is not None and route.canary.weight_ratio > 0.0 else None
    return tuple(one.target for one in (route.active, canary) if one is not None)


def active_target(route: Route | None, model: str, environment: Environment = "production") -> Target:
    """Return the active target.

    Raises:
        Refused: there is none.
    """
    if route is None or route.active is None:
        where = "in staging; a rehearsal or a drill needs something staged" if environment == "staging" else "yet"
        raise Refused(f"nothing serves {model} {where}; see `slipway routes`")
    return route.active.target
