"""What becomes of a release when some of its variants are not made in time: it continues with the others."""

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.facts import DeadlinePassed, VariantFailed, VariantRequested, VersionRegistered
from contracts.policy import Deadlines, QualityGate
from services.registry.domain.deadlines import awaited_step, deadline_at
from services.registry.domain.record import DeadlineReached, Input, Release
from services.registry.domain.releases import decide, open_release
from tests.kit import fakes_registry as k
from tests.kit.soak import often
from tests.unit.registry.walks import FOUR, Walk

LIMIT_S = 1000.0
LATE = DeadlineReached(step="quantise")
TOLD = (
    "It was not quantised within the 1000 s of the policy. Add quantisers or raise deadlines.quantise_s, then publish "
    "with a higher attempt."
)


def policy(**changes):
    return k.policy(deadlines=Deadlines(quantise_s=LIMIT_S), **changes)


def overdue(variants, *facts, **changes):
    """A release at the deadline of `quantise`, and what it said when the deadline passed."""
    walk = Walk(policy(**changes), variants=variants)
    walk.handle(k.merged(), *facts)
    walk.now += timedelta(seconds=LIMIT_S)
    return walk, walk.handle(LATE)


def test_the_release_goes_on_with_those_that_are_made_and_says_which_are_not():
    walk, emitted = overdue(("bf16", "int8", "awq-int4"), k.quantised("int8"))
    assert list(emitted) == ["deadline.passed:quantise", "variant.failed:bf16", "variant.failed:awq-int4"]
    passed = DeadlinePassed.model_validate(emitted["deadline.passed:quantise"])
    assert (passed.step, passed.waiting_for) == (
        "quantise",
        "variant.quantised of bf16, awq-int4; the release continues with int8",
    )
    failed = VariantFailed.model_validate(emitted["variant.failed:awq-int4"])
    assert (failed.variant, failed.step, failed.code, failed.reason) == (
        "awq-int4",
        "quantise",
        "deadline_passed",
        TOLD,
    )
    assert awaited_step(walk.release) == "register"
    assert deadline_at(walk.release) == walk.now + timedelta(seconds=walk.release.policy.deadlines.stage_s)
    registered = VersionRegistered.model_validate(walk.handle(k.written())["version.registered"])
    assert [variant.variant for variant in registered.variants] == ["int8"]


def test_at_its_end_the_late_one_stands_beside_the_others_with_its_reason():
    walk, _ = overdue(("int8", "awq-int4"), k.quantised("int8"))
    walk.handle(k.written(), k.turn(), k.staged("int8"), k.benchmarked("int8"), k.changed(k.route(k.target("int8"))))
    assert (walk.end.outcome, walk.comparison.winner) == ("promoted", "int8")
    late = {variant.variant: variant for variant in walk.comparison.variants}["awq-int4"]
    assert (late.verdict, late.code, late.reason) == ("fail", "deadline_passed", TOLD)
    assert "failed awq-int4 quantise" in {step.step for step in walk.end.timeline}


def test_when_the_others_fail_later_the_late_one_is_among_the_reasons():
    walk, _ = overdue(("int8", "awq-int4"), k.quantised("int8"))
    walk.handle(k.written(), k.turn(), k.staged("int8"), k.benchmarked("int8", verdict="fail"))
    assert (walk.end.outcome, walk.end.code) == ("rejected", "gate_failed")
    assert f"awq-int4: {TOLD}" in walk.end.reason


@pytest.mark.parametrize(
    "received",
    [(), (k.failed("int8"),), (k.quantised("int8", mean_kl=0.9),)],
    ids=["nothing", "a failure", "one outside its gate"],
)
def test_without_one_to_go_on_with_the_release_expires(received):
    walk, emitted = overdue(("int8", "awq-int4"), *received, quality={"int8": QualityGate(max_mean_kl=0.1)})
    assert list(emitted) == ["deadline.passed:quantise", "release.finished"]
    assert (walk.end.outcome, walk.end.code) == ("expired", "deadline_passed")
    assert walk.release.timed_out == ()


ABANDONED = k.abandoned()


@pytest.mark.parametrize(
    "late",
    [k.quantised("awq-int4"), k.failed("awq-int4", code="out_of_memory"), ABANDONED, LATE],
    ids=["made after all", "failed as well", "dead-lettered", "the deadline again"],
)
def test_what_comes_late_of_a_variant_that_was_given_up_is_ignored(late):
    walk, _ = overdue(("int8", "awq-int4"), k.quantised("int8"))
    before = walk.release
    assert walk.handle(late) == {}
    assert walk.release == before
    walk.handle(k.written(), k.turn())
    before = walk.release
    assert walk.handle(late) == {}
    assert walk.release == before


def test_work_that_is_abandoned_while_it_is_awaited_or_is_another_services_still_ends_the_release():
    walk = Walk(policy(), variants=("int8", "awq-int4"))
    walk.handle(k.merged(), k.quantised("int8"), ABANDONED)
    assert walk.end.code == "work_abandoned"
    walk, _ = overdue(("int8", "awq-int4"), k.quantised("int8"))
    walk.handle(ABANDONED.model_copy(update={"service": "server-manager", "cause_type": "slipway.stage.requested.v1"}))
    assert walk.end.code == "work_abandoned"


def test_its_own_word_that_a_variant_failed_changes_nothing_when_it_comes_back():
    walk, emitted = overdue(("int8", "awq-int4"), k.quantised("int8"))
    before = walk.release
    assert walk.handle(VariantFailed.model_validate(emitted["variant.failed:awq-int4"])) == {}
    assert walk.release == before


def test_a_record_from_before_variants_could_be_given_up_goes_on_as_any_other():
    walk = Walk(policy(), variants=("int8", "awq-int4"))
    walk.handle(k.merged(), k.quantised("int8"))
    old = walk.release.model_dump(mode="json")
    del old["timed_out"]
    walk.release = Release.model_validate(old)
    walk.now += timedelta(seconds=LIMIT_S)
    assert "variant.failed:awq-int4" in walk.handle(LATE)


def test_a_release_that_expired_before_variants_could_be_given_up_stays_expired():
    walk, _ = overdue(("int8", "awq-int4"))
    old = walk.release.model_dump(mode="json")
    del old["timed_out"]
    walk.release = Release.model_validate(old)
    assert walk.handle(k.quantised("int8"), LATE) == {}
    assert walk.end.outcome == "expired"


def fed(release, facts, now, ids):
    for input_id, fact in zip(ids, facts, strict=True):
        release = decide(release, Input(input_id, now, fact), now).release
    return release


@given(data=st.data())
@settings(max_examples=often(60), deadline=None)
def test_whatever_is_made_in_time_and_whatever_comes_late_in_any_order(data):
    """How four variants ended: made or failed in time, or late; and what is said of the late ones afterwards."""
    endings = {variant: data.draw(st.sampled_from(("quantised", "failed", "late")), variant) for variant in FOUR}
    in_time = [
        k.quantised(v) if ending == "quantised" else k.failed(v) for v, ending in endings.items() if ending != "late"
    ]
    quantised = [v for v, ending in endings.items() if ending == "quantised"]
    late = [v for v, ending in endings.items() if ending == "late"]
    release = open_release(k.opened(policy=policy(), variants=FOUR), cause_id="e0", now=k.START).release
    release = fed(release, [k.merged()], k.START, ["m"])
    before = data.draw(st.permutations(in_time))
    release = fed(release, before, k.START, [f"t{number}" for number in range(len(before))])
    then = k.START + timedelta(seconds=LIMIT_S)
    release = fed(release, [LATE], then, ["d"])
    keys = [k.key_of(entry) for entry in release.outbox]
    assert release.timed_out == (tuple(late) if quantised else ())
    assert [key for key in keys if key.startswith("variant.failed:")] == [
        f"variant.failed:{v}" for v in release.timed_out
    ]
    assert keys.count("deadline.passed:quantise") == (1 if late else 0)
    if not quantised:
        assert release.finished.outcome == ("expired" if late else "rejected")
        return
    plan = [k.written(), k.turn(), *(fact for v in quantised for fact in (k.staged(v), k.benchmarked(v)))]
    afterwards = [fact for v in late for fact in (k.quantised(v), k.failed(v), k.staged(v), k.benchmarked(v))]
    noise = data.draw(st.lists(st.sampled_from([*afterwards, LATE, k.merged()]), max_size=8))
    order = data.draw(st.permutations([*plan, *noise, *([ABANDONED] if late else [])]))
    end = fed(release, order, then, [f"r{number}" for number in range(len(order))])
    asked = {k.key_of(entry) for entry in end.outbox if entry.type == "slipway.stage.requested.v1"}
    assert asked == {f"stage.requested:{v}" for v in quantised}
    assert set(end.quantised) == set(quantised)
    traffic = [entry for entry in end.outbox if k.key_of(entry) == "traffic.requested:1"]
    assert len(traffic) == 1
    verdicts = {variant.variant: (variant.verdict, variant.code) for variant in end.progress.comparison.variants}
    assert {v: verdicts[v] for v in late} == dict.fromkeys(late, ("fail", "deadline_passed"))
    assert Release.model_validate_json(end.model_dump_json()) == end
    assert {k.key_of(entry) for entry in end.outbox if entry.type == VariantRequested.TYPE} == {
        f"variant.requested:{v}" for v in FOUR
    }
