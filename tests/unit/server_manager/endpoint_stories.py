"""Stories of a fleet of several endpoints, in virtual time."""

import tempfile
from datetime import timedelta
from pathlib import Path

from contracts import facts as cf
from contracts.envelope import Event
from tests.kit.virtual_time import run_virtual
from tests.unit.server_manager.factories import START, route
from tests.unit.server_manager.fleet_world import MODEL, FleetWorld, target

SETTLED_S = 60.0


def play(story, *kills):
    """Let version 1 be active on the first endpoint and version 0 previous on the second, and the story follow."""

    async def run():
        with tempfile.TemporaryDirectory() as folder:
            world = FleetWorld(Path(folder), more=("triton-2",))
            second = route(1, 0).previous.model_copy(update={"endpoints": (world.engines["triton-2"].endpoint,)})
            world.routes.routes[MODEL] = route(1).model_copy(update={"previous": second})
            await world.live_through(story, *kills, begins_s=20)

    run_virtual(run())


def check_served(world):
    """Every target of production generates where its route says, and nowhere else is a copy of it."""
    now = world.routes.routes[MODEL]
    for served in (now.active, now.previous):
        name = str(served.target)
        holders = [engine.endpoint for engine in world.engines.values() if name in engine.models]
        assert holders == list(served.endpoints), f"{name} is on {holders}, its route names {served.endpoints}"
    assert {target(0), target(1)} <= world.ready()


def order_of(endpoint, drained, number):
    """Return an administrator's order, given so many seconds after the start."""
    fact = cf.EndpointOrdered(reason="Its machine is replaced.", endpoint=endpoint, drained=drained)
    return Event[cf.EndpointOrdered](
        id=f"e-{number}",
        source="/slipway/ana",
        type=fact.TYPE,
        subject="all-models",
        time=START + timedelta(seconds=number),
        correlationid=f"e-{number}",
        data=fact,
    )


def order(world, endpoint, drained=True, number=1):
    """Publish an administrator's order."""
    return world.publish(order_of(endpoint, drained, number))


def answers(world, event):
    return {(type(fact), getattr(fact, "code", None)) for fact in world.answers(event)}


ACCEPTED = {(cf.OrderAccepted, None)}
