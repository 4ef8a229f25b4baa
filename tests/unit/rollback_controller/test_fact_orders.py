"""Facts in any order, twice, late, between deaths, promotions and wrong clocks: what must hold holds."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from contracts import facts as cf
from decisions.routes.edits import Changed, promote
from testbed import factories as f
from tests.kit.fake_bus import Message
from tests.kit.virtual_time import run_virtual
from tests.unit.rollback_controller.world import World

KILLS = st.lists(st.integers(1, 120), max_size=3)
DELAYS = st.sampled_from([0.0, 0.0, 0.05, 1.0, 7.0, 30.0])


def again(world, event):
    """Deliver an event once more: its acknowledgement was lost."""
    stored = next(message for message in world.log.stored if message.event.id == event.id)
    world.streams.put(Message(stored.sequence, event, stored.stored_at))
    world.bus.deliver()


FACTS = {
    "opened 6": lambda world: world.open_releases(6),
    "opened 7": lambda world: world.open_releases(7),
    "raised": lambda world: world.publish(world.alert(), event_id="a-1"),
    "updated": lambda world: world.publish(world.alert(kind=cf.AlertUpdated), event_id="a-2"),
    "ordered": lambda world: world.publish(cf.RollbackOrdered(reason="odd", failed=f.target(7)), event_id="o-1"),
    "finished": lambda world: world.publish(
        cf.ReleaseFinished(release_id="r-6", model=f.MODEL, version=6, outcome="promoted", reason="well"),
        event_id="f-1",
    ),
    "requests": lambda world: world.requests(6),
}


async def in_order(order, kills):
    world = World(sweep_s=5.0)
    world.serve()
    running = asyncio.create_task(world.keep_running(*kills))
    await asyncio.sleep(0)
    for name, delay_s, repeated in order:
        event = FACTS[name](world)
        if repeated and event is not None and not isinstance(event.data, cf.InferenceBatch):
            again(world, event)
        await asyncio.sleep(delay_s)
    await asyncio.sleep(120)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await world.stop()
    return world


@given(
    st.permutations(list(FACTS)).flatmap(
        lambda names: st.tuples(*(st.tuples(st.just(name), DELAYS, st.booleans()) for name in names))
    ),
    KILLS,
)
def test_an_alert_and_an_order_in_any_order_end_in_the_same_route(order, kills):
    world = run_virtual(in_order(order, kills))
    world.check()
    world.check_ends()
    route = world.route()
    assert (route.epoch, route.active.target, route.is_barred(f.target(7))) == (13, f.target(6), True)
    assert len(world.log.facts(cf.DeploymentChanged)) == 1
    assert world.streams.unacknowledged() == []


# -- whatever comes ---------------------------------------------------------------------------------------------------


def promoted(world, version):
    """Promote a version, as server-manager does by an order of the registry that knows the present epoch."""
    route = world.route()
    edit = promote(route, f.served(version), weight_ratio=1.0, epoch=route.epoch, cause_id=f"p-{version}-{route.epoch}")
    if isinstance(edit, Changed):
        world.routes.set("production", edit.route)


def lifted(world, version):
    world.publish(cf.QuarantineLifted(reason="well", target=f.target(version)))


def ordered(world, version):
    world.publish(cf.RollbackOrdered(reason="odd", failed=f.target(version)))


def alerted(world, version):
    world.publish(world.alert(version, number=len(world.log.stored)))


def silent(world, _version):
    world.routes.lost = not world.routes.lost


def full(world, _version):
    world.log.full = not world.log.full


def unanswered(world, version):
    world.log.unanswered = version - 4  # 1 to 4


def unloaded(world, version):
    world.probe.unloaded ^= {str(f.target(version))}


def hanging(world, version):
    world.probe.hanging ^= {str(f.target(version))}


def clock(world, version):
    world.clock.jump([-86_400, -600, 600, 86_400][version % 4])


MOVES = [promoted, lifted, ordered, alerted, silent, full, unanswered, unloaded, hanging, clock]


async def whatever(moves, kills):
    world = World(sweep_s=5.0)
    world.serve()
    running = asyncio.create_task(world.keep_running(*kills))
    await asyncio.sleep(0)
    world.open_releases(5, 6, 7, 8)
    await asyncio.sleep(2)
    for move, version, delay_s in moves:
        move(world, version)
        await asyncio.sleep(delay_s)
    world.routes.lost = world.log.full = False
    world.probe.unloaded.clear()
    world.probe.hanging.clear()
    await asyncio.sleep(200)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await world.stop()
    return world


@given(st.lists(st.tuples(st.sampled_from(MOVES), st.integers(5, 8), DELAYS), max_size=12), KILLS)
def test_whatever_comes_every_rollback_ends_once_and_nothing_quarantined_serves(moves, kills):
    world = run_virtual(whatever(moves, kills))
    world.check()
    world.check_ends()
