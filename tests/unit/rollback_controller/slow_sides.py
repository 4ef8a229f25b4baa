"""A canary and an active version that are both slow."""

from contracts import facts as cf
from decisions.probed import ProbedAnswer
from testbed import factories as f
from tests.unit.rollback_controller.world import World

SLOW = ProbedAnswer(ttft_ms=5_000.0, itl_ms=10.0)


TRIGGERS = (
    f.trigger(name="slow", metric="ttft_ms", threshold=800.0),
    f.trigger(name="errors", metric="error_ratio", threshold=0.02),
    f.trigger(name="empty", metric="empty_ratio", threshold=0.02),
)


def started(*, slice_ratio=0.1, **served) -> World:
    world = World(slice_ratio=slice_ratio)
    world.serve(**served)
    world.open_releases(6, 7, triggers=TRIGGERS)
    world.start()
    return world


def codes(world):
    return [failed.code for failed in world.log.facts(cf.RollbackFailed)]


def both_slow(*, apart, **settings) -> World:
    behind = f.served(6, endpoints=("127.0.0.1:9",)) if apart else f.served(6)
    world = started(previous=None, **settings)
    world.routes.set("production", world.route().model_copy(update={"previous": behind}))
    world.probe.times |= {str(f.target(version)): SLOW for version in (6, 7)}
    return world
