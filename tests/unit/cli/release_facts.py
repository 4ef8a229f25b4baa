"""Facts of a release from its begin to its end, and the release as the command line reads it."""

from clients.cli.releases.recorded_releases import Release
from contracts import facts as f
from contracts.policy import Promotion
from testbed.factories import after, event, fact, policy, route, served
from testbed.progress import with_progress

RELEASE = "r-0123456789abcdef-1"
READY_ID = "ready-1"
AUTOMATIC = policy(promotion=Promotion(mode="automatic"))
THREE = ("int8", "gptq-int4", "awq-int4")


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


def release_of(events, rolled_back="") -> Release:
    """Return the release that events are about, as the registry would have recorded it."""
    facts = [each.data for each in with_progress(events)]
    opening = next(each for each in facts if isinstance(each, f.ReleaseOpened))
    last = [each for each in facts if isinstance(each, f.ReleaseProgressed)][-1]
    return Release(last.progress, opening.source_event_id, opening, rolled_back)


def progressed(variant, seconds, **fields):
    live = logged(f.WorkProgressed, seconds, variant=variant, **fields)
    return live.model_copy(update={"source": "/slipway/quantiser"})
