"""Small builders of what server-manager decides on."""

from datetime import UTC, datetime, timedelta

from contracts.envelope import Event
from contracts.facts import ReleaseFinished, StageReleased, StageRequested, TrafficRequested
from contracts.policy import LoadProfile
from contracts.routes import CanaryShare, Route, ServedTarget
from contracts.vocabulary import ArtifactRef, Deployable, Target, digest_of
from services.server_manager.domain.reconcile import Held, Limits, Phase

START = datetime(2026, 1, 1, tzinfo=UTC)
LIMITS = Limits(memory_budget_bytes=1000, overhead_bytes=100, weights_ratio=1.0)
"""Every target below weighs 100 and so reserves 200: five fit."""


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def deployable(version: int, model: str = "bot", weights_bytes: int = 100, variant: str = "bf16") -> Deployable:
    target = Target(model=model, version=version, variant=variant)
    manifest = ArtifactRef(uri=f"s3://slipway/{target}", digest=digest_of(str(target).encode()), size_bytes=1)
    return Deployable(target=target, manifest=manifest, weights_bytes=weights_bytes)


def served(version: int, model: str = "bot") -> ServedTarget:
    loadable = deployable(version, model)
    return ServedTarget(
        target=loadable.target,
        manifest=loadable.manifest,
        weights_bytes=loadable.weights_bytes,
        endpoints=("127.0.0.1:1",),
    )


def route(active=None, previous=None, canary=None, *, weight=0.1, epoch=1, model="bot", **more) -> Route:
    return Route(
        model=model,
        epoch=epoch,
        active=None if active is None else served(active, model),
        previous=None if previous is None else served(previous, model),
        canary=None if canary is None else CanaryShare(served=served(canary, model), weight_ratio=weight),
        **more,
    )


def held(version: int, phase: Phase = Phase.READY, model: str = "bot", **more) -> Held:
    probed = {} if phase is Phase.UNPROVEN else {"since_probe_s": 0.0}
    values = {"digest": deployable(version, model).manifest.digest, "memory_bytes": 200, **probed, **more}
    return Held(phase=phase, **values)


def _event(fact, event_id: str, seconds: float, model: str):
    return Event[type(fact)](
        id=event_id,
        source="/slipway/registry",
        type=fact.TYPE,
        subject=model,
        time=at(seconds),
        correlationid="r",
        data=fact,
    )


def stage_requested(
    event_id="s1",
    candidate=1,
    baseline=0,
    *,
    release="r1",
    seconds=0.0,
    weights=100,
    purpose="benchmark",
    variant="bf16",
):
    fact = StageRequested(
        release_id=release,
        candidate=deployable(candidate, weights_bytes=weights, variant=variant),
        baseline=deployable(baseline),
        purpose=purpose,
        load=LoadProfile(),
    )
    return _event(fact, event_id, seconds, "bot")


def stage_released(candidate=1, *, release="r1", seconds=10.0, purpose=None):
    fact = StageReleased(release_id=release, candidate=deployable(candidate).target, purpose=purpose)
    return _event(fact, f"released-{release}-{candidate}-{seconds}-{purpose}", seconds, "bot")


def release_finished(release="r1", *, seconds=20.0):
    fact = ReleaseFinished(release_id=release, model="bot", version=1, outcome="rejected", reason="gate")
    return _event(fact, f"finished-{release}", seconds, "bot")


def traffic_requested(
    event_id="t1",
    target=1,
    *,
    epoch=0,
    weight=1.0,
    fallback=None,
    model="bot",
    release="r1",
    weights=100,
    variant="bf16",
):
    fact = TrafficRequested(
        release_id=release,
        target=deployable(target, model, weights, variant),
        weight_ratio=weight,
        epoch=epoch,
        fallback=None if fallback is None else deployable(fallback, model),
        shadow_ratio=0.0 if weight else 0.2,
    )
    return _event(fact, event_id, 0.0, model)
