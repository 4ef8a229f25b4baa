from itertools import permutations

import pytest

from clients.cli.event_log import LoggedEvent
from contracts import facts as f
from contracts.policy import Approvals, Canary, Promotion, Shadow
from contracts.routes import ShadowShare
from contracts.services import INBOX, ORDERS
from decisions.release_progress import STEPS, ReleaseProgress
from decisions.release_projection import advance, join, latest, project
from testbed.factories import MODEL, after, event, fact, registered, route, served, staging_request
from tests.unit.cli.release_facts import (
    AUTOMATIC,
    READY_ID,
    RELEASE,
    THREE,
    finished,
    logged,
    only,
    opened,
    progressed,
    ready,
    rolled_back,
    whole_release,
)


def states(release):
    return {step.name: step.state for step in release.listed()}


def test_a_checkpoint_and_its_release_are_one_release():
    release = only(project([ready(), opened()]))
    assert (release.version, release.release_id, release.began_at) == (7, RELEASE, after(0))


def test_the_order_of_the_two_streams_does_not_matter():
    events = [ready(), opened(), logged(f.CheckpointMerged, 12)]
    expected = only(project(events))
    for order in permutations(events):
        if order.index(events[1]) < order.index(events[2]):  # one stream keeps its own order
            assert only(project(order)) == expected


def test_every_step_of_a_promoted_release_is_done():
    release = only(project(whole_release()))
    assert release.outcome == "promoted"
    assert set(states(release).values()) == {"done"}
    assert [step.name for step in release.listed()] == [
        name for name in STEPS if name not in ("approved", "shadow", "canary")
    ]


@pytest.mark.parametrize("length", range(1, 9))
def test_the_step_after_the_last_one_done_is_running(length):
    release = only(project(whole_release()[: length + 1]))
    marks = [step.state for step in release.listed()]
    assert marks == ["done"] * length + ["running"] + ["waiting"] * (len(marks) - length - 1)


def test_a_step_under_way_is_not_named_as_one_that_is_done():
    release = only(project(whole_release()[:2]))
    (running,) = [step for step in release.listed() if step.state == "running"]
    assert (running.name, running.title, release.state) == ("merged", "merging", "merging")
    done = only(project(whole_release()))
    assert ([step.title for step in done.listed()], done.state) == ([step.name for step in done.listed()], "promoted")


def test_before_admission_the_admission_is_running():
    assert states(only(project([ready()])))["admitted"] == "running"


def test_a_repeated_event_changes_nothing():
    events = whole_release()
    assert project([*events, *events]) == project(events)


def test_a_checkpoint_rejected_at_admission_ends_with_its_code():
    refused = event(
        fact(f.CheckpointRejected, code="policy_missing", reason="No policy."),
        source="/slipway/registry",
        causationid=READY_ID,
        correlationid="run",
        time=after(2),
    )
    release = only(project([ready(), refused]))
    assert (release.outcome, release.code, release.finished_at) == ("rejected", "policy_missing", after(2))
    assert states(release)["admitted"] == "failed"


def test_a_checkpoint_rejected_by_the_merger_waits_for_release_finished():
    refused = event(fact(f.CheckpointRejected), source="/slipway/merger", correlationid=RELEASE, time=after(9))
    release = only(project([ready(), opened(), refused]))
    assert (release.outcome, states(release)["merged"]) == (None, "failed")
    assert (
        only(project([ready(), opened(), refused, finished("rejected", code="non_finite_weights")])).outcome
        == "rejected"
    )


def test_a_repeated_checkpoint_is_not_a_new_release():
    releases = project([*whole_release(), ready(id="ready-2", time=after(100))])
    assert only(releases).outcome == "promoted"


def test_a_deliberate_retry_is_the_newest_release_from_the_moment_it_is_published():
    again = event(fact(f.CheckpointReady, attempt=3), id="ready-2", correlationid="run", time=after(100))
    release = latest(join(project([*whole_release(), again])), MODEL)
    assert (release.outcome, release.release_id) == (None, None)


def test_the_newest_release_is_the_highest_version_whatever_the_clock_of_its_publisher():
    """The second was published by a machine whose clock is an hour behind; its predecessor was promoted."""
    first, second = "r-11111111", "r-22222222"
    promoted = ReleaseProgress("a", MODEL, after(0), release_id=first, version=1, outcome="promoted")
    under_way = ReleaseProgress("b", MODEL, after(-3600), release_id=second, version=2)
    other = ReleaseProgress("c", "other", after(-60), release_id=first, version=9)
    releases = {release.key: release for release in (under_way, promoted, other)}
    assert latest(releases, MODEL) is under_way
    assert latest(releases) is other
    announced = ReleaseProgress("d", MODEL, after(-7200))
    assert latest({**releases, "d": announced}, MODEL) is under_way
    assert latest({}) is latest(releases, "none") is None


def test_an_announcement_counts_from_when_the_bus_stored_it():
    late = event(fact(f.CheckpointReady, attempt=3), id="ready-2", correlationid="run", time=after(-3600))
    history = [*whole_release(), LoggedEvent(INBOX, 9, late, after(100)).dated]
    assert latest(join(project(history)), MODEL).key == "ready-2"
    assert LoggedEvent(ORDERS, 9, late, after(100)).dated is LoggedEvent(INBOX, 9, late).dated is late


def test_a_failed_variant_does_not_hide_a_successful_one():
    events = [
        ready(),
        opened(),
        logged(f.CheckpointMerged, 12),
        logged(f.VariantQuantised, 50),
        logged(f.VariantFailed, 55, step="quantise", variant="gptq-int4"),
    ]
    for order in (events, [*events[:3], events[4], events[3]]):
        step = only(project(order)).steps["quantised"]
        assert step.state == "done"
        assert "int8: perplexity x1.014" in step.detail


def test_progress_shows_until_its_step_is_done():
    live = logged(f.WorkProgressed, 20, done=12.0, total=30.0)
    releases = project([ready(), opened(), logged(f.CheckpointMerged, 12), live])
    (progress,) = only(releases).work.progress
    assert progress.ratio == pytest.approx(0.4)
    assert only(advance(releases, logged(f.VariantQuantised, 50))).work.progress == ()


def test_several_variants_that_failed_are_all_named():
    lost = [logged(f.VariantFailed, 50 + i, step="quantise", variant=variant) for i, variant in enumerate(THREE[1:])]
    step = only(project([ready(), opened(variants=THREE), logged(f.CheckpointMerged, 12), *lost])).steps["quantised"]
    assert (step.state, step.detail) == ("failed", "awq-int4: group_size_impossible; gptq-int4: group_size_impossible")


def quantised(release):
    return next(step for step in release.listed() if step.name == "quantised")


def test_a_step_of_several_variants_is_done_when_each_has_an_answer():
    events = [ready(), opened(variants=THREE), logged(f.CheckpointMerged, 12)]
    step = quantised(only(project(events)))
    assert (step.state, step.detail) == ("running", "")
    events.append(logged(f.VariantQuantised, 50, variant="int8"))
    step = quantised(only(project(events)))
    assert step.state == "running"
    assert step.detail.startswith("1 of 3; int8: perplexity x1.014")
    events.append(logged(f.VariantFailed, 51, step="quantise", variant="gptq-int4"))
    step = quantised(only(project([*events, events[-1]])))
    assert (step.state, step.detail[:7]) == ("running", "2 of 3;")
    assert states(only(project(events)))["registered"] == "waiting"
    events.append(logged(f.VariantQuantised, 52, variant="awq-int4"))
    step = quantised(only(project(events)))
    assert (step.state, step.detail[:5]) == ("done", "awq-i")
    assert states(only(project(events)))["registered"] == "running"


def test_a_step_whose_first_variant_failed_is_running_while_others_are_under_way():
    events = [ready(), opened(variants=THREE), logged(f.VariantFailed, 50, step="quantise", variant="gptq-int4")]
    step = quantised(only(project(events)))
    assert (step.state, step.detail) == ("running", "1 of 3; gptq-int4: group_size_impossible")


def test_staging_and_benchmarks_count_the_registered_variants():
    two = tuple(registered().model_copy(update={"variant": variant}) for variant in ("int8", "awq-int4"))
    events = [
        *(ready(), opened(variants=THREE), logged(f.CheckpointMerged, 12)),
        logged(f.VariantFailed, 51, step="quantise", variant="gptq-int4"),
        *(logged(f.VariantQuantised, 52 + i, variant=variant) for i, variant in enumerate(("int8", "awq-int4"))),
        logged(f.VersionRegistered, 60, variants=two),
        logged(f.VariantStaged, 70),
    ]
    shown = states(only(project(events)))
    assert (shown["staged"], shown["benchmarked"]) == ("running", "running"), "one is loaded and the other benchmarked"
    events.append(logged(f.VariantBenchmarked, 80))
    steps = {step.name: step for step in only(project(events)).listed()}
    assert [steps[name].detail[:6] for name in ("staged", "benchmarked")] == ["1 of 2", "1 of 2"]
    assert steps["rehearsed"].state == "waiting"
    events.append(logged(f.VariantFailed, 81, step="stage", variant="awq-int4"))
    shown = states(only(project(events)))
    assert (shown["staged"], shown["benchmarked"], shown["rehearsed"]) == ("done", "done", "running")


def test_a_step_is_done_once_a_later_one_is():
    events = whole_release()
    events[1] = opened(variants=THREE)
    assert set(states(only(project(events[:8]))).values()) <= {"done", "running", "waiting"}
    assert states(only(project(events[:5])))["quantised"] == "done", "the version was registered without the others"
    assert "of 3" not in quantised(only(project(events))).detail


def in_progress(release):
    return [(progress.step, progress.variant, progress.done) for progress in release.work.progress]


def test_several_variants_are_in_progress_at_once_each_with_its_newest_progress():
    begun = [ready(), opened(variants=THREE), logged(f.CheckpointMerged, 12)]
    live = [
        progressed("awq-int4", 20, step="download", done=1.0),
        progressed("int8", 21, done=3.0),
        progressed("gptq-int4", 22, done=2.0),
        progressed("awq-int4", 23, done=5.0),
        progressed("int8", 24, done=4.0),
    ]
    releases = project([*begun, *live])
    assert in_progress(only(releases)) == [
        ("quantise", "int8", 4),
        ("quantise", "gptq-int4", 2),
        ("quantise", "awq-int4", 5),
    ]
    made = only(advance(releases, logged(f.VariantQuantised, 50, variant="int8")))
    assert in_progress(made) == [("quantise", "gptq-int4", 2), ("quantise", "awq-int4", 5)]
    lost = only(advance(releases, logged(f.VariantFailed, 50, variant="gptq-int4", step="quantise")))
    assert in_progress(lost) == [("quantise", "int8", 4), ("quantise", "awq-int4", 5)]


def test_progress_that_arrives_after_its_answer_is_ignored():
    answer = logged(f.VariantQuantised, 50, variant="int8").model_copy(update={"source": "/slipway/quantiser"})
    releases = project([ready(), opened(variants=THREE), answer, progressed("int8", 49), progressed("awq-int4", 49)])
    assert in_progress(only(releases)) == [("quantise", "awq-int4", 12)]
    again = progressed("int8", 49, step="stage").model_copy(update={"source": "/slipway/server-manager"})
    assert ("stage", "int8", 12) in in_progress(only(advance(releases, again))), "another service, by another clock"


def test_a_deployed_variant_is_not_in_progress():
    live = logged(f.WorkProgressed, 86, step="promote", variant="int8", done=1.0, total=2.0, unit="targets")
    releases = project([*whole_release()[:7], live])
    assert in_progress(only(releases)) == [("promote", "int8", 1)]
    assert in_progress(only(advance(releases, whole_release()[8]))) == []


def test_late_progress_does_not_reopen_a_finished_release():
    assert only(project([*whole_release(), logged(f.WorkProgressed, 91)])).work.progress == ()


def test_a_manual_release_shows_that_it_waits_for_approval():
    asked = logged(f.ApprovalRequested, 86, release_id=RELEASE)
    releases = project([*whole_release()[:7], asked])
    assert states(only(releases))["approved"] == "running"
    granted = logged(f.ApprovalGranted, 87, release_id=RELEASE)
    for order in ([asked, granted], [granted, asked]):
        step = only(project([*whole_release()[:7], *order])).steps["approved"]
        assert (step.state, step.detail) == ("done", "by jonas")


def test_a_canary_is_a_running_step():
    step = only(project([*whole_release()[:8], logged(f.DeploymentChanged, 88)])).steps["canary"]
    assert (step.state, step.detail) == ("running", "support-bot.v8.int8 takes 10%")


SHADOWED = ShadowShare(served=served(7), share_ratio=0.1)


def test_a_shadow_is_a_step_with_what_it_needs_and_what_came_of_it():
    policy = AUTOMATIC.model_copy(update={"shadow": Shadow()})
    begun = logged(f.DeploymentChanged, 87, cause="shadow", route=route(canary=None, shadow=SHADOWED))
    trying = logged(f.ShadowAssessed, 88, verdict="inconclusive", requests=60, requests_needed=40, seconds_needed=300.0)
    first = [ready(), opened(policy=policy), *whole_release()[2:8]]
    waiting = only(project(first))
    assert states(waiting)["shadow"] == "running"
    assert only(project([*first, begun])).steps["shadow"].detail == "support-bot.v7.int8 is asked 10% unseen"
    step = only(project([*first, begun, trying])).steps["shadow"]
    assert (step.state, step.detail) == ("running", "60 requests compared, 40 more and 300 s needed")
    passed = logged(f.ShadowAssessed, 89, verdict="pass", requests=140)
    after = only(project([*first, begun, trying, passed]))
    assert (states(after)["shadow"], states(after)["canary"]) == ("done", "running")
    assert after.steps["shadow"].detail == "pass after 140 requests compared"
    failed = logged(f.ShadowAssessed, 89, verdict="fail", requests=70)
    assert states(only(project([*first, begun, failed])))["shadow"] == "failed"
    goes_on = logged(f.DeadlinePassed, 89, step="shadow", waiting_for="shadow.assessed; the policy goes on without it")
    step = only(project([*first, begun, trying, goes_on])).steps["shadow"]
    assert (step.state, step.detail) == ("done", "no verdict in time; the policy goes on without it")
    ended = logged(f.DeadlinePassed, 89, step="shadow", waiting_for="shadow")
    assert only(project([*first, begun, trying, ended])).steps["shadow"].state == "running"


def test_events_of_an_unknown_release_are_ignored():
    assert project([logged(f.DeploymentChanged, 5), logged(f.WorkProgressed, 6), logged(f.AlertRaised, 7)]) == {}


def test_two_models_are_two_releases():
    other = event(fact(f.CheckpointReady, model="other"), id="ready-2", subject="other", time=after(5))
    releases = join(project([*whole_release(), other]))
    assert latest(releases, MODEL).outcome == "promoted"
    assert latest(releases).model == "other"


def test_a_rehearsal_and_a_canary_are_steps_with_their_results():
    staged = logged(f.VariantStaged, 85.5, request=staging_request(purpose="rehearsal"))
    trying = logged(f.CanaryAssessed, 89, verdict="inconclusive", requests=12, requests_needed=8)
    release = only(
        project([*whole_release()[:7], staged, *whole_release()[7:8], logged(f.DeploymentChanged, 88), trying])
    )
    assert release.steps["staged"].detail.count(" in ") == 1, "what was staged for the rehearsal is no second staging"
    assert (release.steps["rehearsed"].state, release.steps["rehearsed"].detail) == (
        "done",
        "slow-first-token rolled back in 10.8 s",
    )
    assert (release.steps["canary"].state, release.steps["canary"].detail) == ("running", "12 requests, 8 more needed")
    counts = {"slow": f.TriggerCounts(requests=20, bad=0), "empty": f.TriggerCounts(requests=0, bad=0)}
    passed = logged(f.CanaryAssessed, 89, verdict="pass", requests=20, counts=counts)
    canary = only(project([*whole_release()[:8], logged(f.DeploymentChanged, 88), passed])).steps["canary"]
    assert canary.detail == "pass after 20 requests, of which empty saw none"
    failed = only(
        project([*whole_release()[:7], logged(f.RehearsalCompleted, 86, verdict="fail", reason="no alert came")])
    )
    assert (failed.steps["rehearsed"].state, failed.steps["rehearsed"].detail) == ("failed", "no alert came")


def test_a_rollback_after_the_release_ended_stands_beside_its_outcome():
    promoted = [*whole_release()[:-1], finished(version=7)]
    release = only(project([*promoted, rolled_back(120)]))
    assert release.outcome == "promoted"
    assert release.rolled_back.startswith(
        f"{served(7).target} was rolled back to {served(5).target} automatically at 20"
    )
    assert "by an operator" in only(project([*promoted, rolled_back(120, mode="manual")])).rolled_back
    assert not only(project([*promoted, rolled_back(120, version=8)])).rolled_back
    rejected = [*whole_release()[:-1], finished("rejected", version=7), rolled_back(120)]
    assert not only(project(rejected)).rolled_back, "a canary that failed was never promoted"
    returned = event(fact(f.DeploymentChanged, cause="return", route=route(active=served(7))), correlationid="order-1")
    assert not only(project([*promoted, rolled_back(120), returned])).rolled_back, "it serves again"
    staging = rolled_back(120).model_copy(update={"environment": "staging"})
    assert not only(project([*promoted, staging])).rolled_back


def test_events_of_staging_are_not_steps_of_the_release():
    moved = event(
        fact(f.DeploymentChanged, cause="promote"), correlationid=RELEASE, time=after(86), environment="staging"
    )
    before = project(whole_release()[:7])
    assert advance(before, moved) == before


@pytest.mark.parametrize(
    ("name", "states", "ends"),
    [
        ("quantised", ("failed", "done"), ("done", "a; b", 9)),
        ("quantised", ("done", "failed"), ("done", "a; b", 9)),
        ("quantised", ("failed", "failed"), ("failed", "a; b", 9)),
        ("merged", ("failed", "done"), ("done", "b", 5)),
        ("merged", ("done", "done"), ("done", "a; b", 9)),
    ],
)
def test_a_step_of_variants_is_done_if_one_of_them_is_and_another_step_is_what_it_came_to_last(name, states, ends):
    release = ReleaseProgress("key", MODEL, after(0))
    for state, seconds, detail in zip(states, (9, 5), ("a", "b"), strict=True):
        release = release.with_step(name, after(seconds), detail, state)
    step = release.steps[name]
    assert (step.state, step.detail, step.at) == (ends[0], ends[1], after(ends[2]))


def test_figures_that_may_surprise_are_explained_beside_them():
    release = next(release for release in project(whole_release()).values() if "merged" in release.steps)
    assert release.steps["merged"].detail == (
        "99.8% of likeliest tokens as with base + LoRA (rounding to bfloat16 decides near-ties)"
    )
    assert release.steps["quantised"].detail.endswith("size x0.61 of the merged model (embeddings are not quantised)")


def test_approvals_are_counted_by_person_and_those_that_were_refused_are_not():
    policy = Approvals(count=2, not_by_publisher=True)
    opened, *others = whole_release()[1:7]
    assert isinstance(opened.data, f.ReleaseOpened)
    manual = opened.data.policy.model_copy(update={"approvals": policy, "promotion": Promotion(mode="manual")})
    data = opened.data.model_copy(update={"policy": manual, "publishers": ("paula",)})
    asked = logged(f.ApprovalRequested, 86, release_id=RELEASE, approvals=2)
    log = [whole_release()[0], opened.model_copy(update={"data": data}), *others, asked]

    def given(number, sender):
        approval = logged(f.ApprovalGranted, 86 + number, release_id=RELEASE)
        return approval.model_copy(update={"source": f"/slipway/{sender}", "id": f"approval-{number}"})

    def shown(*senders):
        approvals = [given(number, sender) for number, sender in enumerate(senders, 1)]
        step = only(project([*log, *approvals])).steps["approved"]
        return step.state, step.detail.split(", waiting")[0]

    assert shown() == ("running", "0 of 2 approvals")
    assert shown("paula") == ("running", "0 of 2 approvals")
    assert shown("anna", "anna", "paula") == ("running", "1 of 2 approvals, by anna")
    assert shown("anna", "oscar", "ben", "anna") == ("done", "by anna, oscar")


def test_a_release_that_returns_a_version_is_the_newest_and_begins_with_its_canary():
    again = "r-fedcba9876543210-1"
    fields = {
        "release_id": again,
        "source_event_id": "verdict",
        "returns": served(7),
        "policy": AUTOMATIC.model_copy(update={"canary": Canary(steps=(0.1,))}),
    }
    began = event(fact(f.ReleaseOpened, **fields), correlationid=again, time=after(200))
    releases = project([*whole_release(), rolled_back(120), began])
    returns = latest(join(releases), MODEL)
    assert (returns.release_id, returns.version, returns.state) == (again, 7, "canary")
    assert [step.name for step in returns.listed()] == ["admitted", "canary", "in traffic", "finished"]
    assert returns.steps["admitted"].detail == f"{served(7).target} returns as a canary"
    assert releases[RELEASE].rolled_back
    moved = fact(f.DeploymentChanged, cause="promote", route=route(active=served(7), canary=None))
    back = advance(releases, event(moved, correlationid=again, time=after(300)))
    assert (back[RELEASE].rolled_back, back[again].steps["in traffic"].state) == ("", "done")
