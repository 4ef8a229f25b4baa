"""Events of one release, as the event log of a soak holds them."""

from clients.cli.events.event_log import LoggedEvent
from contracts import facts as f
from testbed import factories

RUN = "soak-1-1"


def logged(*events):
    return [LoggedEvent("SLIPWAY_EVENTS", number, event) for number, event in enumerate(events, 1)]


def announcement(identity="a-1", run_id=RUN):
    training = factories.training().model_copy(update={"run_id": run_id})
    return factories.event(factories.fact(f.CheckpointReady, training=training), id=identity)


def opened(release="r-1", run_id=RUN, cause="a-1"):
    training = factories.training().model_copy(update={"run_id": run_id})
    return factories.event(
        factories.fact(f.ReleaseOpened, release_id=release, training=training, source_event_id=cause), id=f"o-{release}"
    )


def finished(release="r-1", outcome="promoted", identity="f-1", at=factories.START):
    fact = factories.fact(f.ReleaseFinished, release_id=release, outcome=outcome)
    return factories.event(fact, id=identity, time=at)


def route_change(epoch, at, active, canary=None, weight=0.5):
    share = factories.CanaryShare(served=factories.served(canary), weight_ratio=weight) if canary else None
    route = factories.route(epoch=epoch, active=factories.served(active), canary=share)
    fact = factories.fact(f.DeploymentChanged, route=route, at=at)
    return factories.event(fact, id=f"d-{epoch}")
