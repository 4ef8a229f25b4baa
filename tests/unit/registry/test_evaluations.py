"""The chosen variant is asked the evaluation sets before it goes live: requested, staged, judged, or the release ends."""

from datetime import timedelta

import pytest

from contracts.evaluations import Evaluations
from contracts.evaluations.results import Anchor
from contracts.facts import StageReleased, StageRequested
from contracts.policy import Promotion
from contracts.vocabulary import digest_of
from services.registry.domain import admission, plan
from services.registry.domain.deadlines import awaited_step, is_at_work
from services.registry.domain.record import DeadlineReached
from tests.kit import fakes_registry as k
from tests.unit.registry.walks import Walk

EVALUATIONS = Evaluations.model_validate({"sets": [{"name": "basics", "rows": "default"}]})
BY_HAND = Promotion(mode="manual")


def at_evaluation(policy=k.policy, **about):
    return Walk(policy(evaluations=EVALUATIONS, **about)).to_verdict()


def test_it_is_asked_for_with_all_that_it_compares_once_the_measured_lease_is_given_back():
    walk = at_evaluation()
    assert list(walk.last) == ["stage.released:int8", "stage.requested:int8:evaluation"]
    asked = StageRequested.model_validate(walk.last["stage.requested:int8:evaluation"])
    assert (asked.purpose, asked.candidate.target, asked.baseline) == ("evaluation", k.target("int8"), k.BASELINE)
    assert (asked.evaluations, asked.evaluation, asked.attempt) == (EVALUATIONS, walk.release.opened.evaluation, 1)
    assert awaited_step(walk.release) == "evaluate"


def test_the_anchors_that_the_model_has_at_its_turn_are_named():
    walk = at_evaluation()
    anchor = Anchor(basis=digest_of(b"rows"), target=k.target("int8"), report=k.ref("reports/first.json"))
    turn = walk.release.turn.model_copy(update={"anchors": (anchor,)})
    emissions = dict(plan.due(walk.release.model_copy(update={"turn": turn}), k.START))
    asked = StageRequested.model_validate(emissions["stage.requested:int8:evaluation"])
    assert asked.anchors == (anchor,)


def test_only_the_chosen_variant_is_evaluated():
    walk = Walk(k.policy(evaluations=EVALUATIONS), variants=("bf16", "int8")).to_staging()
    walk.handle(k.staged("bf16"), k.benchmarked("bf16", verdict="fail"), k.staged("int8"))
    emitted = walk.handle(k.benchmarked("int8"))
    assert [key for key in emitted if "evaluation" in key] == ["stage.requested:int8:evaluation"]


def test_traffic_follows_a_pass_and_the_pair_stays_loaded_until_the_end():
    walk = at_evaluation()
    assert list(walk.handle(k.evaluated())) == ["traffic.requested:1"]
    emitted = walk.handle(k.changed(k.route(k.target("int8"))))
    released = StageReleased.model_validate(emitted["stage.released:int8:evaluation"])
    assert released.purpose == "evaluation"
    assert walk.end.outcome == "promoted"


@pytest.mark.parametrize(
    ("policy", "about", "following"),
    [
        (k.policy, {"promotion": BY_HAND}, ["approval.requested"]),
        (k.careful_policy, {}, ["rehearsal.requested", "stage.requested:int8:rehearsal"]),
    ],
)
def test_the_pair_is_given_back_before_a_person_or_a_rehearsal_is_awaited(policy, about, following):
    walk = at_evaluation(policy, **about)
    assert list(walk.handle(k.evaluated())) == ["stage.released:int8:evaluation", *following]


@pytest.mark.parametrize(
    ("fact", "code"),
    [
        (k.evaluated(verdict="fail"), "evaluation_failed"),
        (k.evaluated(verdict="inconclusive"), "inconclusive"),
        (k.evaluated(names=("another",)), "inconclusive"),
        (k.failed("int8", "evaluate", "evaluation_invalid"), "evaluation_invalid"),
        (k.failed("int8", "stage", "insufficient_memory", purpose="evaluation"), "insufficient_memory"),
    ],
)
def test_whatever_is_no_pass_rejects(fact, code):
    walk = at_evaluation()
    assert list(walk.handle(fact)) == ["stage.released:int8:evaluation", "release.finished"]
    assert (walk.end.outcome, walk.end.code) == ("rejected", code)
    step = next(step for step in walk.release.progress.steps if step.name == "evaluated")
    assert step.state == "failed"


def test_a_verdict_on_another_variant_decides_nothing_and_the_first_one_counts():
    walk = at_evaluation()
    assert walk.handle(k.evaluated(version=9)) == {}
    walk.handle(k.evaluated())
    assert walk.handle(k.evaluated(verdict="fail")) == {}


def test_it_has_a_deadline():
    walk = at_evaluation()
    walk.now += timedelta(seconds=walk.release.policy.deadlines.evaluate_s)
    walk.handle(DeadlineReached(step="evaluate"))
    assert (walk.end.outcome, walk.end.code) == ("expired", "deadline_passed")


def test_a_checkpoint_without_the_set_that_is_asked_is_refused_at_once():
    own = Evaluations.model_validate({"sets": [{"name": "mine", "scorers": [{"kind": "length"}]}]})
    refusal = admission.assess_evaluations(k.ready(), k.policy(evaluations=own))
    assert (refusal.code, "mine" in refusal.reason) == ("evaluation_invalid", True)
    assert admission.assess_evaluations(k.ready(evaluation=k.ref("set.jsonl")), k.policy(evaluations=own)) is None
    assert admission.assess_evaluations(k.ready(), k.policy(evaluations=EVALUATIONS)) is None


def test_a_checkpoint_with_another_set_than_the_policy_pins_is_refused():
    own = {"name": "mine", "scorers": [{"kind": "length"}], "rows_digest": k.ref("set.jsonl").digest}
    declared = k.policy(evaluations=Evaluations.model_validate({"sets": [own]}))
    other = Evaluations.model_validate({"sets": [{**own, "rows_digest": "sha256:" + "9" * 64}]})
    assert admission.assess_evaluations(k.ready(evaluation=k.ref("set.jsonl")), declared) is None
    refusal = admission.assess_evaluations(k.ready(evaluation=k.ref("set.jsonl")), k.policy(evaluations=other))
    assert refusal.code == "evaluation_invalid"


def test_a_release_is_at_work_while_it_is_evaluated():
    walk = at_evaluation()
    assert is_at_work(walk.release)
    walk.handle(k.evaluated())
    assert not is_at_work(walk.release)


def test_where_none_is_declared_none_is_asked():
    walk = Walk(k.policy()).to_verdict()
    assert list(walk.last) == ["traffic.requested:1"]
    assert walk.handle(k.evaluated(verdict="fail")) == {}
