"""A gateway keeps connections to the endpoints that routes name, and to those that they have just named."""

import contextlib

from contracts.routes import CanaryShare, ShadowShare
from services.gateway.routing.endpoints import forget_endpoints
from services.gateway.routing.tables import RouteTable
from testbed.factories import route, served
from tests.unit.gateway.fakes import FakeEngine


class EndError(Exception):
    """The test has seen enough looks."""


def at(version, *endpoints):
    return served(version).model_copy(update={"endpoints": endpoints})


async def test_connections_are_kept_for_one_look_longer_than_routes_name_their_endpoint():
    engine, looks = FakeEngine(), []
    routes = [
        route(active=at(7, "a:1", "b:1"), previous=at(6, "c:1"), canary=None, epoch=1),
        route(
            active=at(7, "a:1"),
            previous=None,
            canary=CanaryShare(served=at(8, "d:1"), weight_ratio=0.1),
            shadow=ShadowShare(served=at(9, "e:1"), share_ratio=0.1),
            epoch=2,
        ),
    ]
    table, staging = RouteTable({}, None), RouteTable({}, None, "staging")

    async def pause(_seconds):
        looks.append(1)
        if len(looks) == 4:
            raise EndError
        if routes:
            edited = routes.pop(0)
            await table.apply(edited.model, edited, edited.epoch)

    with contextlib.suppress(EndError):
        await forget_endpoints(engine, (table, staging), pause)
    first, second = {"a:1", "b:1", "c:1"}, {"a:1", "d:1", "e:1"}
    assert engine.kept == [frozenset(), first, first | second, second]
