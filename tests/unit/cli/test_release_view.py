from itertools import permutations

import pytest

from clients.cli.views.release import STEPS, advance, join, latest, project
from contracts import facts as f
from contracts.policy import Promotion
from tests.kit.factories import MODEL, after, event, fact, policy, route, served, staging_request

RELEASE = "r-0123456789abcdef-1"
READY_ID = "ready-1"
AUTOMATIC = policy(promotion=Promotion(mode="automatic"))


def ready(**changes):
    return event(f.CheckpointReady, **({"id": READY_ID, "correlationid": "run", "time": after(0)} | changes))


def said(kind, seconds, **fields):
    return event(fact(kind, **fields), correlationid=RELEASE, time=after(seconds), id=f"{kind.TYPE}-{seconds}")


def opened(**fields):
    whole = {"release_id": RELEASE, "source_event_id": READY_ID, "policy": AUTOMATIC} | fields
    return said(f.ReleaseOpened, 1, **whole)


def finished(outcome="promoted", **fields):
    return said(f.ReleaseFinished, 90, release_id=RELEASE, outcome=outcome, **fields)


def whole_road():
    promoted = route(active=served(7), canary=None)
    return [
        ready(),
        opened(),
        said(f.CheckpointMerged, 12),
        said(f.VariantQuantised, 50),
        said(f.VersionRegistered, 51),
        said(f.VariantStaged, 70),
        said(f.VariantBenchmarked, 85),
        said(f.RehearsalCompleted, 86),
        said(f.DeploymentChanged, 88, cause="promote", route=promoted),
        finished(),
    ]


def only(roads):
    (road,) = join(roads).values()
    return road


def states(road):
    return {step.name: step.state for step in road.listed()}


def test_a_checkpoint_and_its_release_are_one_road():
    road = only(project([ready(), opened()]))
    assert (road.version, road.release_id, road.began_at) == (7, RELEASE, after(0))


def test_the_order_of_the_two_streams_does_not_matter():
    events = [ready(), opened(), said(f.CheckpointMerged, 12)]
    expected = only(project(events))
    for order in permutations(events):
        if order.index(events[1]) < order.index(events[2]):  # one stream keeps its own order
            assert only(project(order)) == expected


def test_every_step_of_a_promoted_release_is_done():
    road = only(project(whole_road()))
    assert road.outcome == "promoted"
    assert set(states(road).values()) == {"done"}
    assert [step.name for step in road.listed()] == [name for name in STEPS if name not in ("approved", "canary")]


@pytest.mark.parametrize("length", range(1, 9))
def test_the_step_after_the_last_one_done_is_running(length):
    road = only(project(whole_road()[: length + 1]))
    found = [step.state for step in road.listed()]
    assert found == ["done"] * length + ["running"] + ["waiting"] * (len(found) - length - 1)


def test_before_admission_the_admission_is_running():
    assert states(only(project([ready()])))["admitted"] == "running"


def test_a_repeated_event_changes_nothing():
    events = whole_road()
    assert project([*events, *events]) == project(events)


def test_a_checkpoint_refused_at_the_door_ends_with_its_code():
    refused = event(
        fact(f.CheckpointRejected, code="policy_missing", reason="No policy."),
        source="/slipway/registry",
        causationid=READY_ID,
        correlationid="run",
        time=after(2),
    )
    road = only(project([ready(), refused]))
    assert (road.outcome, road.code, road.finished_at) == ("rejected", "policy_missing", after(2))
    assert states(road)["admitted"] == "failed"


def test_a_checkpoint_refused_by_the_merger_waits_for_the_registrys_last_word():
    refused = event(fact(f.CheckpointRejected), source="/slipway/merger", correlationid=RELEASE, time=after(9))
    road = only(project([ready(), opened(), refused]))
    assert (road.outcome, states(road)["merged"]) == (None, "failed")
    assert (
        only(project([ready(), opened(), refused, finished("rejected", code="non_finite_weights")])).outcome
        == "rejected"
    )


def test_a_repeated_checkpoint_is_no_road_of_its_own():
    roads = project([*whole_road(), ready(id="ready-2", time=after(100))])
    assert only(roads).outcome == "promoted"


def test_a_deliberate_retry_is_the_newest_road_from_the_moment_it_is_published():
    again = event(fact(f.CheckpointReady, attempt=3), id="ready-2", correlationid="run", time=after(100))
    road = latest(join(project([*whole_road(), again])), MODEL)
    assert (road.outcome, road.release_id) == (None, None)


def test_one_variant_failing_does_not_hide_that_another_was_made():
    events = [
        ready(),
        opened(),
        said(f.CheckpointMerged, 12),
        said(f.VariantQuantised, 50),
        said(f.VariantFailed, 55, step="quantise", variant="gptq-int4"),
    ]
    for order in (events, [*events[:3], events[4], events[3]]):
        step = only(project(order)).steps["quantised"]
        assert step.state == "done"
        assert "int8: perplexity x1.014" in step.detail


def test_progress_shows_until_its_step_is_done():
    live = said(f.WorkProgressed, 20, done=12.0, total=30.0)
    roads = project([ready(), opened(), said(f.CheckpointMerged, 12), live])
    (progress,) = only(roads).work.progress
    assert progress.ratio == pytest.approx(0.4)
    assert only(advance(roads, said(f.VariantQuantised, 50))).work.progress == ()


def test_several_variants_that_failed_are_all_named():
    lost = [said(f.VariantFailed, 50 + i, step="quantise", variant=one) for i, one in enumerate(THREE[1:])]
    step = only(project([ready(), opened(variants=THREE), said(f.CheckpointMerged, 12), *lost])).steps["quantised"]
    assert (step.state, step.detail) == ("failed", "awq-int4: group_size_impossible; gptq-int4: group_size_impossible")


THREE = ("int8", "gptq-int4", "awq-int4")


def progressed(variant, seconds, **fields):
    live = said(f.WorkProgressed, seconds, variant=variant, **fields)
    return live.model_copy(update={"source": "/slipway/quantiser"})


def at_work(road):
    return [(one.step, one.variant, one.done) for one in road.work.progress]


def test_several_variants_are_at_work_at_once_each_with_its_newest_progress():
    begun = [ready(), opened(variants=THREE), said(f.CheckpointMerged, 12)]
    live = [
        progressed("awq-int4", 20, step="download", done=1.0),
        progressed("int8", 21, done=3.0),
        progressed("gptq-int4", 22, done=2.0),
        progressed("awq-int4", 23, done=5.0),
        progressed("int8", 24, done=4.0),
    ]
    roads = project([*begun, *live])
    assert at_work(only(roads)) == [("quantise", "int8", 4), ("quantise", "gptq-int4", 2), ("quantise", "awq-int4", 5)]
    made = only(advance(roads, said(f.VariantQuantised, 50, variant="int8")))
    assert at_work(made) == [("quantise", "gptq-int4", 2), ("quantise", "awq-int4", 5)]
    lost = only(advance(roads, said(f.VariantFailed, 50, variant="gptq-int4", step="quantise")))
    assert at_work(lost) == [("quantise", "int8", 4), ("quantise", "awq-int4", 5)]


def test_progress_that_comes_after_the_answer_it_led_to_is_old_news():
    answer = said(f.VariantQuantised, 50, variant="int8").model_copy(update={"source": "/slipway/quantiser"})
    roads = project([ready(), opened(variants=THREE), answer, progressed("int8", 49), progressed("awq-int4", 49)])
    assert at_work(only(roads)) == [("quantise", "awq-int4", 12)]
    again = progressed("int8", 49, step="stage").model_copy(update={"source": "/slipway/server-manager"})
    assert ("stage", "int8", 12) in at_work(only(advance(roads, again))), "another service, by another clock"


def test_what_is_deployed_is_no_longer_at_work():
    live = said(f.WorkProgressed, 86, step="promote", variant="int8", done=1.0, total=2.0, unit="targets")
    roads = project([*whole_road()[:7], live])
    assert at_work(only(roads)) == [("promote", "int8", 1)]
    assert at_work(only(advance(roads, whole_road()[8]))) == []


def test_late_progress_does_not_reopen_a_finished_road():
    assert only(project([*whole_road(), said(f.WorkProgressed, 91)])).work.progress == ()


def test_a_manual_release_shows_that_a_person_is_awaited():
    asked = said(f.ApprovalRequested, 86, release_id=RELEASE)
    roads = project([*whole_road()[:7], asked])
    assert states(only(roads))["approved"] == "running"
    granted = said(f.ApprovalGranted, 87, release_id=RELEASE)
    for order in ([asked, granted], [granted, asked]):
        step = only(project([*whole_road()[:7], *order])).steps["approved"]
        assert (step.state, step.detail) == ("done", "by maria.okafor")


def test_a_canary_is_traffic_under_way():
    step = only(project([*whole_road()[:8], said(f.DeploymentChanged, 88)])).steps["canary"]
    assert (step.state, step.detail) == ("running", "support-bot.v8.int8 takes 10%")


def test_facts_about_no_known_release_make_no_road():
    assert project([said(f.DeploymentChanged, 5), said(f.WorkProgressed, 6), said(f.AlertRaised, 7)]) == {}


def test_two_models_are_two_roads():
    other = event(fact(f.CheckpointReady, model="other"), id="ready-2", subject="other", time=after(5))
    roads = join(project([*whole_road(), other]))
    assert latest(roads, MODEL).outcome == "promoted"
    assert latest(roads).model == "other"


def test_a_rehearsal_and_a_canary_are_steps_with_what_they_showed():
    staged = said(f.VariantStaged, 85.5, request=staging_request(purpose="rehearsal"))
    trying = said(f.CanaryAssessed, 89, verdict="inconclusive", requests=12, requests_needed=8)
    road = only(project([*whole_road()[:7], staged, *whole_road()[7:8], said(f.DeploymentChanged, 88), trying]))
    assert road.steps["staged"].detail.count(" in ") == 1, "what was staged for the rehearsal is no second staging"
    assert (road.steps["rehearsed"].state, road.steps["rehearsed"].detail) == (
        "done",
        "slow-first-token rolled back in 10.8 s",
    )
    assert (road.steps["canary"].state, road.steps["canary"].detail) == ("running", "12 requests, 8 more needed")
    failed = only(project([*whole_road()[:7], said(f.RehearsalCompleted, 86, verdict="fail", reason="no alert came")]))
    assert (failed.steps["rehearsed"].state, failed.steps["rehearsed"].detail) == ("failed", "no alert came")


def test_what_happens_in_staging_is_no_step_of_the_road():
    moved = event(
        fact(f.DeploymentChanged, cause="promote"), correlationid=RELEASE, time=after(86), environment="staging"
    )
    before = project(whole_road()[:7])
    assert advance(before, moved) == before


def test_a_second_measurement_stands_at_the_benchmark_and_leaves_the_earlier_steps_as_they_were():
    gate = f.GateResult(
        name="served_quality",
        verdict="inconclusive",
        reason="why",
        code="measurement_suspect",
        attributed_to="measurement",
    )
    again = staging_request().model_copy(update={"measurement_number": 2})
    before = only(project(whole_road()[:6]))
    road = only(
        project(
            [
                *whole_road()[:6],
                said(f.VariantBenchmarked, 85, verdict="inconclusive", gates=(gate,)),
                said(f.VariantQuantised, 86, variant="int8", measurement_number=2),
                said(f.VariantStaged, 87, request=again),
                said(f.VariantBenchmarked, 89, measurement_number=2),
            ]
        )
    )
    assert [road.steps[name] for name in ("quantised", "staged")] == [before.steps[n] for n in ("quantised", "staged")]
    detail = road.steps["benchmarked"].detail
    assert "int8: inconclusive (measurement_suspect: measurement)" in detail
    assert "int8: measured again, perplexity x1.014" in detail
    assert "int8: pass" in detail
    failed = said(f.VariantFailed, 86, variant="int8", step="quantise", code="out_of_memory", measurement_number=2)
    stopped = only(project([*whole_road()[:6], said(f.VariantBenchmarked, 85), failed]))
    assert stopped.steps["quantised"] == before.steps["quantised"]
    assert "int8: out_of_memory" in stopped.steps["benchmarked"].detail


def test_figures_that_may_surprise_are_explained_beside_them():
    road = next(road for road in project(whole_road()).values() if "merged" in road.steps)
    assert road.steps["merged"].detail == (
        "99.8% of likeliest tokens as with base + LoRA (rounding to bfloat16 decides near-ties)"
    )
    assert road.steps["quantised"].detail.endswith("size x0.61 of the merged model (embeddings are not quantised)")
