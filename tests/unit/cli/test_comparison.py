"""The variants of a release side by side, by its facts alone."""

import json

import pytest

from clients.cli.views import comparison
from contracts import facts as f
from contracts.manifests import VariantManifest
from contracts.policy import QualityGate
from contracts.vocabulary import canonical_json
from testbed.factories import MODEL, after, event, fact, policy, quality, ref, registered, target

RELEASE = "r-0123456789abcdef-1"
VARIANTS = ("bf16", "int8", "gptq-int4", "awq-int4")
OPENED = fact(f.ReleaseOpened, release_id=RELEASE, variants=VARIANTS, policy=policy(gates=()))
LOST = quality().model_copy(update={"perplexity_ratio": 1.4, "mean_kl": 0.3})
SERVED = f.ServedQuality(
    method="prompt_logprobs", tokens=100, perplexity_ratio=1.02, verdict="pass", reason="as measured"
)
KEPT = ref("v7.gptq-int4", "manifests/variant")


def logged(kind, **fields):
    return event(fact(kind, **fields), correlationid=RELEASE, time=after(10))


def failed(variant, stage, code, **fields):
    return logged(f.VariantFailed, variant=variant, step=stage, code=code, reason=f"{stage} broke", **fields)


def benchmarked(variant, **fields):
    return logged(f.VariantBenchmarked, target=target(7).model_copy(update={"variant": variant}), **fields)


EVENTS = [
    event(OPENED, correlationid=RELEASE),
    logged(f.VariantQuantised, variant="bf16"),
    logged(f.VariantQuantised, variant="int8"),
    failed("gptq-int4", "quantise", "quality_gate_failed", quality=LOST, manifest=KEPT),
    failed("awq-int4", "quantise", "out_of_memory"),
    failed("bf16", "stage", "insufficient_memory", purpose="benchmark"),
    benchmarked("int8", served_quality=SERVED),
]


def by_variant(events=EVENTS, registered_ones=()):
    return {summary.variant: summary for summary in comparison.compare(events, OPENED, registered_ones)}


def test_every_requested_variant_has_its_figures_and_the_reason_of_its_failure():
    summaries = by_variant()
    assert list(summaries) == ["bf16", "int8", "gptq-int4", "awq-int4"]
    assert (summaries["int8"].verdict, summaries["int8"].ttft_p50_ms, summaries["int8"].tps_system) == (
        "pass",
        122.5,
        61.75,
    )
    assert (summaries["gptq-int4"].quality, summaries["gptq-int4"].manifest) == (LOST, KEPT)
    codes = {name: summary.code for name, summary in summaries.items() if summary.verdict == "fail"}
    assert codes == {"bf16": "insufficient_memory", "gptq-int4": "quality_gate_failed", "awq-int4": "out_of_memory"}


def test_an_abandoned_variant_stays_failed_if_it_is_produced_later():
    given_up = failed("awq-int4", "quantise", "deadline_passed")
    made = logged(f.VariantQuantised, variant="awq-int4")
    summary = by_variant([given_up, made])["awq-int4"]
    assert (summary.verdict, summary.code) == ("fail", "deadline_passed")


def test_too_little_evidence_is_not_a_failure():
    assert by_variant([failed("int8", "quantise", "inconclusive")])["int8"].verdict == "inconclusive"


def test_the_perplexity_on_the_own_evaluation_set_is_shown():
    own = quality().model_copy(update={"perplexity_ratio": 1.25, "tokens": 900})
    events = [logged(f.VariantQuantised, variant="int8", evaluation_quality=own)]
    events += [logged(f.VariantQuantised, variant="bf16", evaluation_quality=None)]
    summaries = by_variant(events, (registered().model_copy(update={"variant": "int8"}),))
    assert "x1.2500" in comparison.on_own_set(summaries.values())
    assert comparison.on_own_set([summaries["bf16"]]) == ""
    assert summaries["int8"].as_data()["own_quality"]["tokens"] == 900


def test_the_table_of_the_variants_and_why_some_failed(snapshot):
    summaries = by_variant([*EVENTS, event(fact(f.VariantQuantised, variant="int8"), correlationid="another release")])
    rows = [
        comparison.COLUMNS,
        *(summary.row() for summary in summaries.values()),
        comparison.compare(EVENTS[:1], OPENED)[0].row(),
    ]
    why = [summary.why() for summary in summaries.values() if summary.verdict == "fail"]
    assert "\n".join([*(" | ".join(row) for row in rows), *why]) == snapshot
    assert {len(row) for row in rows} == {len(comparison.COLUMNS)}


def test_the_comparison_of_the_registry_decides_which_variant_is_chosen_and_why():
    decided = f.Comparison(
        objective="cost",
        criteria=("weights_bytes",),
        winner="int8",
        variants=(
            f.ComparedVariant(
                variant="bf16", verdict="pass", reason="Dominated: int8 is better.", on_pareto_front=False
            ),
            f.ComparedVariant(variant="int8", verdict="pass", reason="Best by cost.", on_pareto_front=True),
        ),
    )
    for kind in (f.RehearsalRequested, f.ApprovalRequested, f.TrafficRequested, f.ReleaseFinished):
        summaries = by_variant([*EVENTS, logged(kind, comparison=decided)])
        assert (summaries["int8"].row()[-1], summaries["int8"].chosen) == ("chosen", True)
        assert (summaries["bf16"].row()[-1], summaries["bf16"].reason) == ("pass", "Dominated: int8 is better.")
        assert summaries["awq-int4"].code == "out_of_memory", "what it did not speak of stays as it was"


def test_before_the_comparison_variants_are_judged_as_the_registry_judges_them():
    strict = policy(quality={"int8": QualityGate(max_mean_kl=0.001)})
    judged = {
        summary.variant: (summary.verdict, summary.code)
        for summary in comparison.compare(EVENTS, OPENED.model_copy(update={"policy": policy()}))
    }
    assert judged["int8"] == ("inconclusive", "inconclusive"), "a gate of the policy that was not measured is no pass"
    quantised = logged(f.VariantQuantised, variant="int8")
    (summary,) = comparison.compare([quantised], OPENED.model_copy(update={"policy": strict, "variants": ("int8",)}))
    assert (summary.verdict, summary.code) == ("fail", "quality_gate_failed")


def test_a_failed_gate_is_the_reason_before_the_comparison():
    gates = (fact(f.VariantBenchmarked).gates[0].model_copy(update={"verdict": "fail", "reason": "too slow"}),)
    summaries = by_variant([*EVENTS, benchmarked("int8", verdict="fail", gates=gates)])
    assert (summaries["int8"].verdict, summaries["int8"].code) == ("fail", "gate_failed")


def test_a_failed_rehearsal_does_not_change_the_verdict_of_its_variant():
    summaries = by_variant([*EVENTS, failed("int8", "stage", "insufficient_memory", purpose="rehearsal")])
    assert summaries["int8"].verdict == "pass"


def test_a_variant_without_events_has_no_verdict():
    assert {summary.verdict for summary in comparison.compare(EVENTS[:1], OPENED)} == {None}


@pytest.mark.parametrize("known", [(), (registered(),)])
def test_the_data_is_complete_json(known):
    data = json.loads(canonical_json(by_variant(registered_ones=known)["int8"].as_data()))
    assert (data["variant"], data["chosen"], data["quality"]["tokens"]) == ("int8", False, 6128)
    assert data["manifest"]["digest"].startswith("sha256:")
    assert set(data) == set(comparison.VariantSummary.__dataclass_fields__)


def test_a_release_is_found_by_its_version_and_its_end_by_its_id():
    assert comparison.find_release(EVENTS, MODEL, OPENED.version) == OPENED
    assert comparison.find_release(EVENTS, MODEL, 99) is None
    assert comparison.find_end(EVENTS, RELEASE) is None
    end = fact(f.ReleaseFinished, release_id=RELEASE)
    assert comparison.find_end([*EVENTS, event(end)], RELEASE) == end


def test_a_stored_variant_is_completed_from_its_manifest():
    made = fact(f.VariantQuantised).model_dump(exclude={"manifest"})
    manifest = VariantManifest(
        **made,
        model=MODEL,
        output_key=KEPT.digest,
        merged=KEPT,
        files=(),
        held_out_digest=KEPT.digest,
        created_at=after(9),
    )
    whole = comparison.with_manifest(comparison.VariantSummary("gptq-int4", quality=LOST), manifest)
    assert (whole.size_bytes, whole.size_ratio, whole.quality) == (manifest.weights_bytes, manifest.size_ratio, LOST)


BLAMED = f.GateResult(
    name="served_quality",
    verdict="inconclusive",
    reason="At fault: the record.",
    code="measurement_suspect",
    attributed_to="measurement",
)


def test_the_attribution_is_shown():
    first = benchmarked("int8", verdict="inconclusive", gates=(BLAMED,))
    summary = by_variant([*EVENTS, first])["int8"]
    assert (summary.verdict, summary.attributed_to) == ("inconclusive", "measurement")
    assert summary.code == "measurement_suspect"
