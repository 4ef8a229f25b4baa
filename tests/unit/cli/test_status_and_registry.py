"""`slipway status` shows as running what the registry waits for, in every state of a release."""

from datetime import timedelta

import pytest

from contracts import facts as f
from contracts.policy import Canary, Promotion
from contracts.records import OutboxEntry
from decisions.release_plan import PlannedStep
from decisions.release_progress import name_of
from decisions.release_projection import project
from services.registry.domain.deadlines import awaited_step
from services.registry.domain.record import Input, ManifestWritten, TurnGranted
from services.registry.domain.releases import decide, open_release
from testbed import factories
from tests.kit import fakes_registry as k

OLD = k.target("int8", 9)


class Log:
    """A release in the registry, and the log of its facts."""

    def __init__(self, policy):
        self.now, self.events, self.inputs = k.START, [], 0
        opened = k.opened(policy=policy, variants=("int8",))
        decision = open_release(opened, cause_id="e0", now=self.now)
        self.release = decision.release
        self._append(opened)

    def handle(self, fact):
        self.now += timedelta(seconds=10)
        self.inputs += 1
        if not isinstance(fact, ManifestWritten | TurnGranted):  # inputs of the registry itself
            self._append(fact)
        decision = decide(self.release, Input(f"e{self.inputs}", self.now, fact), self.now)
        self.release = decision.release
        for entry in decision.publish:
            assert isinstance(entry, OutboxEntry)
            self._append(f.FACTS[entry.type].model_validate(entry.data))

    def _append(self, fact):
        self.events.append(
            factories.event(
                fact,
                id=f"event-{len(self.events)}",
                subject=k.MODEL,
                correlationid=self.release.id,
                time=self.now,
            )
        )

    @property
    def running(self):
        (release,) = project(self.events).values()
        return [step.name for step in release.listed() if step.state == "running"]


def story(policy, *, first):
    """Return the facts of a release that is promoted, in their order."""
    yield from (k.merged(), k.quantised("int8"), k.written(), k.turn(first=first))
    staged = k.staged("int8")
    if not first:
        staged = staged.model_copy(update={"baseline": staged.baseline.model_copy(update={"target": OLD})})
    yield from (staged, k.benchmarked("int8"))
    if policy.rehearsal == "required":
        yield k.rehearsed(of=policy)
    if policy.promotion.mode == "manual":
        yield k.approval(k.quantised("int8").manifest.digest)
    for number, share in enumerate(() if first else policy.canary.steps):
        yield k.changed(k.route(OLD, k.target("int8"), weight=share, epoch=1 + number), "canary")
        yield k.assessed("int8", share, "inconclusive")
        yield k.assessed("int8", share)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("mode", ["automatic", "manual"])
@pytest.mark.parametrize("rehearsal", ["required", "not_required"])
@pytest.mark.parametrize("steps", [(), (0.1,), (0.1, 0.5)])
def test_the_running_step_is_what_the_registry_waits_for(first, mode, rehearsal, steps):
    policy = k.policy(promotion=Promotion(mode=mode), rehearsal=rehearsal, canary=Canary(steps=steps))
    log = Log(policy)
    for fact in [None, *story(policy, first=first)]:
        if fact is not None:
            log.handle(fact)
        step = awaited_step(log.release)
        assert step is not None
        share = 1.0 if step == "traffic" and (first or not steps) else None
        shown = log.running
        if step == "traffic" and share is None:
            assert shown in (["canary"], ["in traffic"])
        else:
            assert shown == [name_of(PlannedStep(step, share))], (step, type(fact).__name__)
    log.handle(k.changed(k.route(k.target("int8"), epoch=9)))
    assert awaited_step(log.release) is None
    assert log.running == []


@pytest.mark.parametrize(("version", "has_canary"), [(1, False), (2, True)])
def test_only_later_versions_have_a_canary_to_come(version, has_canary):
    opened = k.opened(policy=k.policy(canary=Canary(steps=(0.1,))), variants=("int8",)).model_copy(
        update={"version": version}
    )
    (release,) = project([factories.event(opened, subject=k.MODEL)]).values()
    assert ("canary" in [step.name for step in release.listed()]) is has_canary
