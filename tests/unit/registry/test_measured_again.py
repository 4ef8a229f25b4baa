"""A record of quality that the engine contradicts: the variant is measured again, once, and judged by that."""

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.facts import StageReleased, StageRequested, TrafficRequested, VariantRequested
from contracts.policy import Deadlines, QualityGate
from contracts.routes import ServedTarget
from services.registry.domain import deadlines, versions
from services.registry.domain.record import DeadlineReached, Input, Release
from services.registry.domain.releases import decide, open_release
from tests.kit import fakes_registry as k
from tests.kit.soak import often
from tests.unit.registry.walks import Walk

SECOND_MEASUREMENT = {"number": 2}
ON = ("int8",)
WHAT_TO_DO = "then publish with a higher attempt"


def suspected(policy=None, variants=ON):
    """A release whose int8 has a suspect record, and what it said then."""
    walk = Walk(policy, variants=variants).to_staging()
    return walk, walk.handle(k.staged("int8"), k.suspect("int8"))


def measured(walk, *benchmarks):
    walk.handle(k.quantised("int8", **SECOND_MEASUREMENT), k.staged("int8", **SECOND_MEASUREMENT))
    return walk.handle(*(benchmarks or (k.benchmarked("int8", **SECOND_MEASUREMENT),)))


def test_a_suspect_record_is_measured_again_and_its_lease_given_back_meanwhile():
    gate = QualityGate(max_mean_kl=0.1)
    walk, emitted = suspected(k.policy(quality={"int8": gate}))
    assert list(emitted) == ["stage.released:int8", "variant.requested:int8:2"]
    asked = VariantRequested.model_validate(emitted["variant.requested:int8:2"])
    assert (asked.measurement_number, asked.existing_manifest, asked.gate) == (2, k.quantised("int8").manifest, gate)
    assert (asked.merged, asked.version, asked.release_id) == (k.merged().manifest, 1, walk.release.id)
    assert (walk.end, deadlines.awaited_step(walk.release)) == (None, "measure")


def test_with_the_new_record_it_is_staged_again_as_what_was_registered():
    walk, _ = suspected()
    second = k.quantised("int8", perplexity_ratio=1.005, **SECOND_MEASUREMENT)
    emitted = walk.handle(second)
    assert list(emitted) == ["stage.requested:int8:2"]
    asked = StageRequested.model_validate(emitted["stage.requested:int8:2"])
    assert (asked.measurement_number, asked.quality, asked.purpose) == (2, second.quality, "benchmark")
    assert asked.candidate.manifest == k.quantised("int8").manifest, "the version is immutable"
    assert asked.candidate.measurement_manifest == second.manifest
    assert deadlines.awaited_step(walk.release) == "stage"
    walk.handle(k.staged("int8", **SECOND_MEASUREMENT))
    assert deadlines.awaited_step(walk.release) == "benchmark"


def test_a_second_benchmark_that_passes_promotes_with_the_record_it_rests_on():
    walk, _ = suspected()
    emitted = measured(walk)
    order = TrafficRequested.model_validate(emitted["traffic.requested:1"])
    assert order.target.measurement_manifest == k.quantised("int8", **SECOND_MEASUREMENT).manifest
    end = walk.handle(k.changed(k.route(k.target("int8"))))
    assert list(end) == ["stage.released:int8:2", "release.finished"]
    released = StageReleased.model_validate(end["stage.released:int8:2"])
    assert (released.measurement_number, released.purpose) == (2, "benchmark")
    assert walk.end.outcome == "promoted"


def test_the_record_goes_on_with_the_target_when_it_is_the_baseline_of_the_next():
    target = k.deployable(k.target("int8")).model_copy(
        update={"measurement_manifest": k.quantised("int8", **SECOND_MEASUREMENT).manifest}
    )
    active = ServedTarget(**target.model_dump(), endpoints=("127.0.0.1:8001",))
    route = k.route(k.target("int8")).model_copy(update={"active": active})
    assert versions.decide_turn(k.opened, route, k.BASE).baseline == target


def test_suspect_twice_ends_inconclusive_and_says_what_to_do():
    walk, _ = suspected()
    emitted = measured(walk, k.suspect("int8", **SECOND_MEASUREMENT))
    assert list(emitted) == ["stage.released:int8:2", "release.finished"]
    assert (walk.end.outcome, walk.end.code) == ("rejected", "measurement_suspect")
    assert "It was measured again, and still: served_quality: At fault: the record." in walk.end.reason
    assert WHAT_TO_DO in walk.end.reason
    assert [variant.verdict for variant in walk.end.comparison.variants] == ["inconclusive"]


def test_a_second_benchmark_that_says_nothing_of_the_quality_settles_nothing():
    walk, _ = suspected()
    measured(walk, k.benchmarked("int8", gates=(k.gate(),), **SECOND_MEASUREMENT))
    assert (walk.end.outcome, walk.end.code) == ("rejected", "measurement_suspect")
    assert "no evidence for served_quality" in walk.end.reason


@pytest.mark.parametrize(
    ("fact", "verdict", "code"),
    [
        (k.failed("int8", code="out_of_memory", **SECOND_MEASUREMENT), "inconclusive", "measurement_suspect"),
        (k.failed("int8", code="inconclusive", **SECOND_MEASUREMENT), "inconclusive", "measurement_suspect"),
        (k.failed("int8", code="quality_gate_failed", **SECOND_MEASUREMENT), "fail", "quality_gate_failed"),
        (k.quantised("int8", mean_kl=0.9, **SECOND_MEASUREMENT), "fail", "quality_gate_failed"),
    ],
)
def test_a_second_measurement_that_fails_leaves_the_record_suspect_unless_it_is_outside_the_gate(fact, verdict, code):
    walk, _ = suspected(k.policy(quality={"int8": QualityGate(max_mean_kl=0.1)}))
    walk.handle(fact)
    assert (walk.end.outcome, walk.end.code) == ("rejected", code)
    assert [variant.verdict for variant in walk.end.comparison.variants] == [verdict]
    assert (WHAT_TO_DO in walk.end.reason) == (verdict == "inconclusive")


@pytest.mark.parametrize("stage", ["stage", "benchmark"])
def test_what_fails_in_the_second_staging_fails_the_variant(stage):
    walk, _ = suspected()
    walk.handle(k.quantised("int8", **SECOND_MEASUREMENT), k.failed("int8", stage, "engine_dead", **SECOND_MEASUREMENT))
    assert (walk.end.outcome, walk.end.code) == ("rejected", "engine_dead")


def test_a_benchmark_that_failed_in_something_else_is_not_measured_again():
    walk = Walk().to_staging()
    emitted = walk.handle(k.staged("int8"), k.suspect("int8", others=(k.gate("itl_ms.p95", "fail"),)))
    assert list(emitted) == ["stage.released:int8", "release.finished"]
    assert walk.end.code == "gate_failed"


def test_others_that_failed_for_good_name_the_end():
    walk, _ = suspected(variants=("int8", "bf16"))
    walk.handle(k.staged("bf16"), k.benchmarked("bf16", verdict="fail"))
    measured(walk, k.suspect("int8", **SECOND_MEASUREMENT))
    assert walk.end.code == "gate_failed"
    assert WHAT_TO_DO in walk.end.reason


@pytest.mark.parametrize("later", [k.benchmarked("int8", number=3), k.quantised("int8", number=3)])
def test_there_is_no_third_measurement(later):
    walk, _ = suspected()
    before = walk.release
    assert walk.handle(later) == {}
    assert walk.release == before


LATE = [
    k.suspect("int8"),
    k.benchmarked("int8"),
    k.quantised("int8"),
    k.staged("int8"),
    k.quantised("int8", **SECOND_MEASUREMENT),
    k.failed("int8", **SECOND_MEASUREMENT),
    k.failed("int8", "benchmark"),
]


@pytest.mark.parametrize("fact", LATE)
def test_duplicated_and_late_facts_yield_nothing(fact):
    walk, _ = suspected()
    walk.handle(k.quantised("int8", **SECOND_MEASUREMENT))
    before = walk.release
    assert walk.handle(fact) == {}
    assert walk.release == before


def test_a_second_measurement_that_was_not_requested_is_ignored():
    walk = Walk(k.careful_policy()).to_staging()
    walk.handle(
        k.quantised("int8", mean_kl=9.0, **SECOND_MEASUREMENT),
        k.staged("int8", **SECOND_MEASUREMENT),
        k.suspect("int8", **SECOND_MEASUREMENT),
    )
    emitted = walk.handle(k.staged("int8"), k.benchmarked("int8"))
    assert emitted["rehearsal.requested"]["candidate"]["measurement_manifest"] is None
    assert not any(key.endswith(":2") for key in emitted)


LIMIT_S = 1000.0


def test_a_second_measurement_has_its_time_from_its_request_on_whatever_else_is_answered_meanwhile():
    walk, _ = suspected(k.policy(deadlines=Deadlines(quantise_s=LIMIT_S)), variants=("bf16", "int8"))
    asked_at = walk.release.emitted["variant.requested:int8:2"]
    walk.now += timedelta(seconds=LIMIT_S / 2)
    walk.handle(k.staged("bf16"), k.benchmarked("bf16"))
    assert deadlines.deadline_at(walk.release) == asked_at + timedelta(seconds=LIMIT_S)


def test_what_is_not_measured_in_time_stays_inconclusive_and_the_others_go_on():
    walk, _ = suspected(k.policy(deadlines=Deadlines(quantise_s=LIMIT_S)), variants=("bf16", "int8"))
    walk.handle(k.staged("bf16"), k.benchmarked("bf16"))
    assert deadlines.awaited_step(walk.release) == "measure"
    walk.now += timedelta(seconds=LIMIT_S)
    emitted = walk.handle(DeadlineReached(step="measure"))
    assert TrafficRequested.model_validate(emitted["traffic.requested:1"]).target.target == k.target("bf16")
    assert emitted["deadline.passed:measure:int8"]["step"] == "measure"
    failed = emitted["variant.failed:int8:2"]
    assert (failed["code"], failed["measurement_number"]) == ("deadline_passed", 2)
    verdicts = {
        variant["variant"]: (variant["verdict"], variant["code"])
        for variant in emitted["traffic.requested:1"]["comparison"]["variants"]
    }
    assert verdicts["int8"] == ("inconclusive", "measurement_suspect")
    before = walk.release
    assert walk.handle(k.abandoned(), k.quantised("int8", **SECOND_MEASUREMENT)) == {}, "it is no longer awaited"
    assert walk.release == before


def test_a_record_from_before_there_were_second_measurements_goes_on():
    walk = Walk().to_staging()
    old = walk.release.model_dump(mode="json")
    del old["second_measurements"]
    walk.release = Release.model_validate(old)
    assert "variant.requested:int8:2" in walk.handle(k.staged("int8"), k.suspect("int8"))


FIRST = [k.merged(), k.quantised("int8"), k.written(), k.turn(), k.staged("int8"), k.suspect("int8")]
THEN = [k.quantised("int8", **SECOND_MEASUREMENT), k.staged("int8", **SECOND_MEASUREMENT)]


@pytest.mark.parametrize(
    ("second", "outcome", "code"),
    [
        (k.benchmarked("int8", **SECOND_MEASUREMENT), None, None),
        (k.suspect("int8", **SECOND_MEASUREMENT), "rejected", "measurement_suspect"),
        (k.benchmarked("int8", verdict="fail", **SECOND_MEASUREMENT), "rejected", "gate_failed"),
    ],
)
@given(data=st.data())
@settings(max_examples=often(40), deadline=None)
def test_in_any_order_and_however_often_it_is_measured_again_once(second, outcome, code, data):
    facts = [*FIRST, *THEN, second]
    order = data.draw(st.permutations([*facts, *data.draw(st.lists(st.sampled_from(facts), max_size=6))]))
    release = open_release(k.opened(policy=k.policy(), variants=ON), cause_id="e0", now=k.START).release
    for number, fact in enumerate(order):
        release = decide(release, Input(f"e{number}", k.START, fact), k.START).release
    emitted = [k.key_of(entry) for entry in release.outbox]
    assert len(emitted) == len(set(emitted))
    asked = [emitted.count(f"{kind}.requested:int8:2") for kind in ("variant", "stage")]
    assert asked == [1, 1] if outcome is None else max(asked) <= 1, "what ends at once asks for nothing more"
    ended = release.finished
    assert (ended and ended.outcome, ended and ended.code) == (outcome, code)
    assert ("traffic.requested:1" in emitted) == (outcome is None)
    assert Release.model_validate_json(release.model_dump_json()) == release
