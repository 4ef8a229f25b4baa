"""Copies of a model that a route declares, for tests of the manager."""

from dataclasses import replace

from contracts.envelope import Event
from contracts.facts import EndpointOrdered
from contracts.routes import CanaryShare
from services.server_manager.domain import drains
from services.server_manager.domain.declared_copies import plan_copies
from services.server_manager.domain.placement import Fleet
from services.server_manager.domain.reconcile import plan_desired
from services.server_manager.domain.records import EndpointOrder, Servers
from tests.unit.server_manager.factories import (
    LIMITS,
    START,
    traffic_requested,
)

NAMES = ("default", "two", "three", "four")


FIRST, SECOND, THIRD = (f"127.0.0.1:{number}" for number in (1, 2, 3))


def limits(count, **more):
    return replace(LIMITS, endpoints=dict.fromkeys(NAMES[:count], "default"), **more)


def with_copies(route_of, copies):
    """Return a route whose targets all ask for so many copies."""

    def asking(served):
        return None if served is None else served.model_copy(update={"copies": copies})

    canary = route_of.canary
    if canary is not None:
        canary = CanaryShare(served=asking(canary.served), weight_ratio=canary.weight_ratio)
    return route_of.model_copy(
        update={"active": asking(route_of.active), "previous": asking(route_of.previous), "canary": canary}
    )


def placed(route_of, homes, count, **more):
    routes = {"bot": route_of}
    return plan_copies(routes, plan_desired(routes, Servers()), homes, Fleet(limits(count), **more))


async def promote(world, version, copies=2, **more):
    epoch = world.routes.routes["bot"].epoch if "bot" in world.routes.routes else 0
    event = traffic_requested(f"t{version}", version, epoch=epoch, **more)
    event = event.model_copy(update={"data": event.data.model_copy(update={"copies": copies})})
    await world.order(event)
    await world.ticks(8)


def holders(world, name):
    return [key for key, engine in world.engines.items() if name in engine.models]


def active(world):
    return world.routes.routes["bot"].active


async def drain(world, name, drained=True):
    fact = EndpointOrdered(reason="Its machine is replaced.", endpoint=name, drained=drained)
    event = Event[EndpointOrdered](
        id=f"e-{name}-{drained}",
        source="/slipway/ana",
        type=fact.TYPE,
        subject="all-models",
        time=START,
        correlationid="e",
        data=fact,
    )
    order = EndpointOrder(event=event, received_at=world.clock.now())
    await world.state.write(lambda record: drains.enqueue_endpoint_order(record, order))
