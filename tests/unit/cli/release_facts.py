"""Facts of a release from its begin to its end."""

from contracts import facts as f
from contracts.policy import Promotion
from decisions.release_projection import join
from testbed.factories import after, event, fact, policy, route, served

RELEASE = "r-0123456789abcdef-1"


READY_ID = "ready-1"


AUTOMATIC = policy(promotion=Promotion(mode="automatic"))


def ready(**changes):
    ours = {"id": READY_ID, "correlationid": "run", "time": after(0)}
    return event(fact(f.CheckpointReady, variants=("int8",)), **(ours | changes))


def logged(kind, seconds, **fields):
    return event(fact(kind, **fields), correlationid=RELEASE, time=after(seconds), id=f"{kind.TYPE}-{seconds}")


def opened(**fields):
    whole = {"release_id": RELEASE, "source_event_id": READY_ID, "policy": AUTOMATIC, "variants": ("int8",)} | fields
    return logged(f.ReleaseOpened, 1, **whole)


def finished(outcome="promoted", **fields):
    return logged(f.ReleaseFinished, 90, release_id=RELEASE, outcome=outcome, **fields)


def whole_release():
    promoted = route(active=served(7), canary=None)
    return [
        ready(),
        opened(),
        logged(f.CheckpointMerged, 12),
        logged(f.VariantQuantised, 50),
        logged(f.VersionRegistered, 51),
        logged(f.VariantStaged, 70),
        logged(f.VariantBenchmarked, 85),
        logged(f.RehearsalCompleted, 86),
        logged(f.DeploymentChanged, 88, cause="promote", route=promoted),
        finished(),
    ]


def only(releases):
    (release,) = join(releases).values()
    return release


THREE = ("int8", "gptq-int4", "awq-int4")


def progressed(variant, seconds, **fields):
    live = logged(f.WorkProgressed, seconds, variant=variant, **fields)
    return live.model_copy(update={"source": "/slipway/quantiser"})


def rolled_back(seconds, version=7, mode="automatic", **fields):
    failed = served(version).target
    return event(
        fact(f.RollbackCompleted, failed=failed, to=served(5).target, mode=mode, **fields),
        correlationid="alert-1",
        time=after(seconds),
        id=f"rollback-{seconds}",
    )
