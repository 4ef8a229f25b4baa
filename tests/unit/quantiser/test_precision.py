"""Which precision is measured in, and when the fast one is believed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.facts import PrecisionCheck, Processor, Quality
from contracts.policy import QualityGate
from services.quantiser.domain import assess_precision, assess_quality, choose_precision, instruction_set

AMX = {"sse4_1", "avx", "avx2", "avx_vnni", "avx512_bw", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16"}


def quality(*, reference=17.31, ratio=1.01, kl=0.0135):
    return Quality(
        perplexity_ratio=ratio,
        mean_kl=kl,
        p99_kl=0.07,
        top1_agreement_ratio=0.94,
        tokens=511,
        perplexity=reference * ratio,
        reference_perplexity=reference,
    )


@pytest.mark.parametrize(
    ("features", "limit", "expected"),
    [
        (AMX, "", "AVX512_CORE_AMX"),
        (AMX, "ALL", "AVX512_CORE_AMX"),
        (AMX, "DEFAULT", "AVX512_CORE_AMX"),
        (AMX | {"amx_fp16"}, "", "AVX512_CORE_AMX_FP16"),
        (AMX, "AVX512_CORE_BF16", "AVX512_CORE_BF16"),
        (AMX, "avx512_core_bf16", "AVX512_CORE_BF16"),
        (AMX, "AVX512_CORE", "AVX512_CORE"),
        (AMX, "AVX2", "AVX2"),
        ({"sse4_1", "avx", "avx2"}, "AVX512_CORE_AMX", "AVX2"),
        ({"neon"}, "", ""),
        (set(), "AVX2", ""),
    ],
)
def test_instruction_set_is_the_widest_that_is_there_and_allowed(features, limit, expected):
    assert instruction_set(features, limit) == expected


@pytest.mark.parametrize(
    ("device", "available", "expected"),
    [
        ("cpu", "AVX512_CORE_AMX", "bfloat16"),
        ("cpu", "AVX512_CORE_BF16", "bfloat16"),
        ("cpu", "AVX512_CORE", "float32"),
        ("cpu", "AVX2", "float32"),
        ("cpu", "", "float32"),
        ("NVIDIA H100", "", "float32"),
    ],
)
def test_bfloat16_only_where_the_cpu_has_instructions_for_it(device, available, expected):
    measured = Processor(device=device, instruction_set=available, capability="AVX512", amx=False, threads=2)
    assert choose_precision(measured) == expected
    assert choose_precision(measured, activations=True) == "float32"


@pytest.mark.parametrize(
    ("fast", "exact", "verdict", "reason_part"),
    [
        (quality(), quality(), "agreed", "within 0.5 % of float32"),
        (quality(reference=17.31 * 1.004), quality(), "agreed", "within 0.5 % of float32"),
        (quality(reference=22.1), quality(reference=17.31), "differed", "reference perplexity 22.1 instead of 17.31"),
        (quality(ratio=1.016), quality(ratio=1.01), "differed", "perplexity ratio 1.016 instead of 1.01"),
        (quality(kl=0.0), quality(kl=0.0), "agreed", "within"),
        (quality(kl=0.000009), quality(kl=0.0), "agreed", "within"),
        (quality(kl=0.000011), quality(kl=0.0), "differed", "mean KL 1.1e-05 instead of 0"),
        (quality(kl=0.0137), quality(kl=0.0133), "differed", "mean KL 0.0137 instead of 0.0133"),
        (quality(kl=0.1110), quality(kl=0.1105), "agreed", "within"),
        (quality(kl=0.401), quality(kl=0.4), "agreed", "within"),
        (quality(kl=0.403), quality(kl=0.4), "differed", "mean KL"),
        (quality().model_copy(update={"perplexity": None}), quality(), "differed", "perplexity nothing instead of"),
    ],
)
def test_verdict_compares_every_figure(fast, exact, verdict, reason_part):
    result = assess_precision(fast, exact)
    assert result.verdict == verdict
    assert reason_part in result.reason
    assert "511 tokens" in result.reason
    assert (result.fast, result.exact) == (fast, exact)


@pytest.mark.parametrize(
    ("kl", "verdict"), [(0.0, "agreed"), (0.0009, "agreed"), (0.0011, "differed"), (0.16, "differed")]
)
def test_a_model_that_is_far_from_itself_is_not_believed_where_both_sides_are_wrong_alike(kl, verdict):
    result = assess_precision(quality(ratio=1.0, kl=0.0), quality(ratio=1.0, kl=0.0), kl)
    assert (result.verdict, result.rounding_kl) == (verdict, kl)


figures = st.builds(quality, reference=st.floats(1.0, 1e6), ratio=st.floats(0.5, 100.0), kl=st.floats(0.0, 20.0))


@given(figures)
def test_a_measurement_agrees_with_itself(measured):
    assert assess_precision(measured, measured).verdict == "agreed"


@given(figures, st.floats(1.011, 10.0))
def test_a_perplexity_far_off_is_never_believed(exact, factor):
    fast = exact.model_copy(update={"perplexity": exact.perplexity * factor})
    assert assess_precision(fast, exact).verdict == "differed"
    assert assess_precision(exact, fast).verdict == "differed"


@given(figures, st.floats(-0.0000099, 0.0000099))
def test_a_hundred_thousandth_of_a_nat_is_no_difference(exact, noise):
    fast = exact.model_copy(update={"mean_kl": max(0.0, exact.mean_kl + noise)})
    assert assess_precision(fast, exact).verdict == "agreed"


@given(figures, st.floats(0.0, 100.0))
def test_a_kl_that_is_off_is_never_believed(exact, factor):
    allowed = max(exact.mean_kl * 0.005, 0.00001)
    fast = exact.model_copy(update={"mean_kl": exact.mean_kl + allowed * 1.01 + factor})
    assert assess_precision(fast, exact).verdict == "differed"


def test_a_measurement_that_could_not_be_checked_passes_no_gate():
    check = PrecisionCheck(verdict="inconclusive", reason="float32 does not fit the memory.")
    measured = quality().model_copy(update={"tokens": 4096})
    gate = QualityGate(max_perplexity_ratio=1.05)
    result = assess_quality(measured, gate, check=check)
    assert result.verdict == "inconclusive"
    assert "could not be checked. float32 does not fit the memory." in result.reason
    assert assess_quality(measured, None, check=check).verdict == "pass", "no gate asks for nothing"
    assert assess_quality(measured, gate, identical=True, check=check).verdict == "pass", (
        "identical files need no measurement"
    )
    for verdict in ("agreed", "differed"):
        believed = PrecisionCheck(verdict=verdict, reason="")
        assert assess_quality(measured, gate, check=believed).verdict == "pass"
