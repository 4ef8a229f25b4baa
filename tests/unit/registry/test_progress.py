"""The progress of a release that the registry publishes: its steps, their results, and what it waits for."""

import itertools
from datetime import timedelta

import pytest

from contracts import facts as f
from contracts.facts.progress import ReleaseProgress
from contracts.policy import Approvals, Canary, Promotion, Shadow
from services.registry.domain.deadlines import awaited_step, deadline_at
from services.registry.domain.record import DeadlineReached, Input
from services.registry.domain.releases import decide, open_release
from tests.kit import fakes_registry as k
from tests.unit.registry.histories import HISTORIES, walk
from tests.unit.registry.walks import Walk

OLD = k.target("int8", 9)
TITLES = {
    "merge": "merging", "quantise": "quantising", "register": "registering", "queue": "staging", "stage": "staging",
    "benchmark": "benchmarking", "rehearsal": "rehearsing", "approval": "awaiting approval", "canary": "canary",
}  # fmt: skip


def states(progress):
    return {step.name: step.state for step in progress.steps}


def step(release, name):
    return next(step for step in release.progress.steps if step.name == name)


def story(policy, *, first):
    """Return the facts of a release that is promoted, in their order, without the last."""
    yield from (k.merged(), k.quantised("int8"), k.written(), k.turn(first=first))
    yield from (k.staged("int8"), k.benchmarked("int8"))
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
def test_the_running_step_is_what_the_release_waits_for_until_its_deadline(first, mode, rehearsal, steps):
    policy = k.policy(promotion=Promotion(mode=mode), rehearsal=rehearsal, canary=Canary(steps=steps))
    on_way = Walk(policy)
    for fact in [None, *story(policy, first=first)]:
        if fact is not None:
            on_way.handle(fact)
        awaited, shown = awaited_step(on_way.release), on_way.release.progress
        expected = {"promoting", "canary"} if awaited == "traffic" else {TITLES[awaited]}
        running = [step.title for step in shown.steps if step.state == "running"]
        assert len(running) == 1
        assert (set(running) <= expected, shown.state) == (True, running[0]), awaited
        assert (shown.deadline_at, shown.outcome) == (deadline_at(on_way.release), None)
    on_way.handle(k.changed(k.route(k.target("int8"), epoch=9)))
    ended = on_way.release.progress
    assert set(states(ended).values()) == {"done"}
    assert (ended.state, ended.outcome, ended.deadline_at, ended.finished_at) == ("promoted",) * 2 + (None, on_way.now)
    assert [each.title for each in ended.steps] == [each.name for each in ended.steps]


@pytest.mark.parametrize("name", HISTORIES)
def test_each_change_is_published_once_before_what_follows_from_it(name):
    release = walk(*HISTORIES[name])
    told = [entry for entry in release.outbox if entry.type == f.ReleaseProgressed.TYPE]
    progress = [ReleaseProgress.model_validate(entry.data["progress"]) for entry in told]
    assert progress[-1] == release.progress
    assert all(one != other for one, other in itertools.pairwise(progress))
    assert len({entry.id for entry in told}) == len(told)
    opened = walk(HISTORIES[name][0], [])
    assert [k.key_of(entry) for entry in opened.outbox] == ["release.progressed:0", "release.opened"]


def test_a_step_of_several_variants_is_done_when_each_has_a_result():
    on_way = Walk(variants=("int8", "gptq-int4", "awq-int4"))
    on_way.handle(k.merged(), k.quantised("int8"))
    shown = step(on_way.release, "quantised")
    assert (shown.state, shown.awaited) == ("running", ("gptq-int4", "awq-int4"))
    assert shown.detail.startswith("1 of 3; int8: perplexity x1.010, size x0.50")
    on_way.handle(k.failed("gptq-int4"), k.quantised("awq-int4"))
    shown = step(on_way.release, "quantised")
    assert (shown.state, shown.awaited, "gptq-int4: engine_failed" in shown.detail) == ("done", (), True)
    on_way.handle(k.written(), k.turn(), k.staged("int8"))
    assert {name for name, state in states(on_way.release.progress).items() if state == "running"} == {
        "staged",
        "benchmarked",
    }, "one is loaded and the other benchmarked"


def test_the_step_at_which_a_release_ends_has_failed():
    on_way = Walk().to_verdict()
    ended = Walk()
    ended.handle(f.CheckpointRejected(code="non_finite_weights", reason="NaN."))
    assert states(ended.release.progress)["merged"] == states(ended.release.progress)["finished"] == "failed"
    assert step(ended.release, "merged").detail == "non_finite_weights"
    assert states(ended.release.progress)["quantised"] == "waiting"
    assert states(on_way.release.progress)["benchmarked"] == "done"


def test_nothing_is_benchmarked_where_no_variant_was_quantised():
    on_way = Walk()
    on_way.handle(k.merged(), k.failed("int8"))
    after = itertools.dropwhile(lambda each: each.name != "quantised", on_way.release.progress.steps)
    assert [each.state for each in after] == ["done", "failed", "waiting", "waiting", "waiting", "failed"]


def test_a_version_that_returns_waits_for_its_turn_before_its_first_share():
    policy = k.policy(canary=Canary(steps=(0.1,)))
    returns = k.opened(policy=policy).model_copy(update={"returns": k.served(k.target("int8"))})
    waiting = open_release(returns, cause_id="e0", now=k.START).release
    assert awaited_step(waiting) == "queue"
    assert (waiting.progress.state, step(waiting, "canary").state) == ("canary", "running")
    assert step(waiting, "canary").detail
    begun = decide(waiting, Input("turn", k.START, k.turn(first=False)), k.START).release
    assert (begun.progress.state, step(begun, "canary").detail) == ("canary", "")


def test_a_pause_is_shown_with_who_and_why_and_has_no_deadline():
    on_way = Walk()
    hold = Input("h", on_way.now, f.ReleaseHeld(release_id=k.RELEASE, paused=True, reason="wait"), sender="oscar")
    shown = decide(on_way.release, hold, on_way.now).release.progress
    assert (shown.state, shown.deadline_at) == ("merging", None)
    assert shown.paused.startswith("paused by oscar at ")
    assert shown.paused.endswith(": wait")


def test_approvals_are_counted_without_those_of_publishers():
    policy = k.policy(promotion=Promotion(mode="manual"), approvals=Approvals(count=2, not_by_publisher=True))
    on_way = Walk(policy).to_verdict()
    assert step(on_way.release, "approved").detail.startswith("0 of 2 approvals, waiting until ")
    digest, release = k.quantised("int8").manifest.digest, on_way.release
    for name in ("anna", "ben"):
        release = decide(release, Input(name, on_way.now, k.approval(digest), sender=name), on_way.now).release
    assert (step(release, "approved").state, step(release, "approved").detail) == ("done", "by anna, ben")
    assert release.progress.approvers == ("anna", "ben")


def test_shadow_and_canary_show_what_they_have_and_their_verdicts():
    policy = k.policy(shadow=Shadow(), canary=Canary(steps=(0.1,)))
    on_way = Walk(policy).to_verdict(turn=k.turn(first=False))
    on_way.handle(k.changed(k.route(OLD, shadow=k.target("int8"), epoch=1), "shadow"))
    assert "int8 is asked " in step(on_way.release, "shadow").detail
    on_way.handle(k.shadow_assessed("int8"))
    assert step(on_way.release, "shadow").state == "done"
    on_way.handle(k.changed(k.route(OLD, k.target("int8"), weight=0.1, epoch=2), "canary"))
    assert step(on_way.release, "canary").detail.endswith("int8 takes 10%")
    on_way.handle(k.assessed("int8", 0.1, "fail"))
    assert (step(on_way.release, "canary").state, step(on_way.release, "canary").detail[:4]) == ("failed", "fail")


def late(rule):
    """Return a release whose canary or shadow has no verdict in time."""
    name = "canary" if rule in ("ask", "promote") else "shadow"
    if name == "canary":
        policy = k.policy(canary=Canary(steps=(0.1,), deadline_s=50, on_deadline=rule))
        begun = k.changed(k.route(OLD, k.target("int8"), weight=0.1, epoch=1), "canary")
    else:
        shadow = Shadow(duration_s=10, deadline_s=50, on_deadline=rule.removeprefix("shadow "))
        policy = k.policy(canary=Canary(steps=(0.1,)), shadow=shadow)
        begun = k.changed(k.route(OLD, shadow=k.target("int8"), epoch=1), "shadow")
    on_way = Walk(policy).to_verdict(turn=k.turn(first=False))
    on_way.handle(begun)
    under_way = step(on_way.release, name).detail
    on_way.now += timedelta(seconds=50)
    on_way.handle(DeadlineReached(step=name))
    assert step(on_way.release, name).detail != under_way
    return on_way, name


@pytest.mark.parametrize("rule", ["ask", "shadow ask"])
@pytest.mark.parametrize("verdict", ["pass", "fail"])
def test_a_verdict_that_comes_late_is_shown(rule, verdict):
    on_way, name = late(rule)
    on_way.handle(k.assessed("int8", 0.1, verdict) if name == "canary" else k.shadow_assessed("int8", verdict))
    assert step(on_way.release, name).detail.startswith(f"{verdict} after ")


@pytest.mark.parametrize("rule", ["ask", "shadow ask"])
def test_who_lets_a_release_go_on_without_a_verdict_is_shown(rule):
    on_way, name = late(rule)
    order = f.CanaryAdvanced(release_id=k.RELEASE, weight_ratio=0.1 if name == "canary" else 0.0, reason="few requests")
    release = decide(on_way.release, Input("advance", on_way.now, order, sender="anna"), on_way.now).release
    assert (step(release, name).state, "anna" in step(release, name).detail) == ("done", True)


@pytest.mark.parametrize("rule", ["promote", "shadow continue"])
def test_what_the_policy_goes_on_without_is_done(rule):
    on_way, name = late(rule)
    assert step(on_way.release, name).state == "done"
