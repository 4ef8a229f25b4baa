"""What is planned for each precision, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.facts import CALIBRATION_DEFAULTS, QuantiseSettings, VariantRequested
from contracts.vocabulary import digest_of
from services.quantiser.domain import (
    ModelShape,
    QuantisationPlan,
    QuantiserDefaults,
    Rejection,
    choose_group_size,
    plan_output_key,
    plan_quantisation,
    read_shape,
)
from testbed import factories

SMOLLM2 = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "num_hidden_layers": 30,
    "head_dim": 64,
}
DEFAULTS = QuantiserDefaults()


def shape(**changes) -> ModelShape:
    return read_shape(SMOLLM2, "bfloat16").model_copy(update=changes)


def plan(variant="int8", settings=None, defaults=DEFAULTS, **changes):
    return plan_quantisation(variant, shape(**changes), settings or CALIBRATION_DEFAULTS[variant], defaults)


def test_shape_is_read_from_the_configuration():
    assert shape() == ModelShape(
        architecture="LlamaForCausalLM",
        layers=30,
        dtype="bfloat16",
        linear_dims=(576, 1536),
        output_dims=(192, 576, 1536),
        quantised=False,
    )


def test_fp8_needs_no_calibration_whatever_a_request_says():
    """Weights are rounded to the nearest value of e4m3; activations get the scale of their own token as they come."""
    for samples in (0, 16):
        planned = plan("fp8", QuantiseSettings(calibration_samples=samples))
        assert (planned.engine, planned.method, planned.scheme) == ("llmcompressor", "round-to-nearest", "FP8_DYNAMIC")
        assert (planned.calibration, planned.group_size) == (None, None)
        assert planned.ignored_modules == ("lm_head",)


def test_shape_without_head_dim_takes_the_hidden_size():
    planned = read_shape({k: v for k, v in SMOLLM2.items() if k != "head_dim"} | {"num_attention_heads": 8}, "float32")
    assert planned.linear_dims == (576, 1536)


def test_input_width_of_the_attention_output_counts_too():
    """With wide heads it is neither the hidden nor the intermediate size, and groups must divide it."""
    assert read_shape(SMOLLM2 | {"head_dim": 80}, "bfloat16").linear_dims == (576, 720, 1536)
    assert choose_group_size((576, 720, 1536)) is None


def test_gptq_is_symmetric_in_groups_and_leaves_the_head_alone():
    planned = plan("gptq-int4")
    assert (planned.engine, planned.method, planned.scheme, planned.group_size) == (
        "llmcompressor",
        "gptq",
        "W4A16",
        64,
    )
    assert planned.ignored_modules == ("lm_head",)
    assert planned.smoothing_strength is None


@pytest.mark.parametrize(
    ("defaults", "changes", "engine"),
    [
        ({}, {}, "autoawq"),
        ({"awq_engine": "llmcompressor"}, {}, "llmcompressor"),
        ({}, {"architecture": "GraniteForCausalLM"}, "llmcompressor"),
    ],
    ids=["default", "chosen", "not known to AutoAWQ"],
)
def test_awq_is_made_by_autoawq_where_it_can(defaults, changes, engine):
    planned = plan("awq-int4", defaults=QuantiserDefaults(**defaults), **changes)
    assert (planned.engine, planned.method, planned.group_size) == (engine, "awq", 64)


@pytest.mark.parametrize("variant", ["int8", "gptq-int4", "awq-int4"])
def test_calibration_is_the_methods_own_unless_the_request_says_otherwise(variant):
    def planned(**settings):
        asked = VariantRequested(
            release_id="r", variant=variant, merged=factories.ref("m"), settings=QuantiseSettings(**settings)
        )
        planned = plan(variant, asked.settings).calibration
        return planned.samples, planned.tokens, planned.seed

    samples, tokens = {"int8": (16, 384), "gptq-int4": (32, 512), "awq-int4": (4, 512)}[variant]
    assert planned() == (samples, tokens, 0)
    assert planned(calibration_samples=3, calibration_tokens=200, seed=5) == (3, 200, 5)
    assert planned(calibration_tokens=1000) == (samples, 1000, 0)


def test_int8_calibrates_by_default():
    planned = plan()
    assert (planned.engine, planned.method, planned.scheme) == ("llmcompressor", "smoothquant-gptq", "W8A8")
    assert planned.smoothing_strength == 0.8
    assert planned.ignored_modules == ("lm_head",)
    assert planned.group_size is None
    assert (planned.calibration.samples, planned.calibration.tokens) == (16, 384)


def test_no_samples_means_round_to_nearest():
    planned = plan(settings=QuantiseSettings(calibration_samples=0))
    assert (planned.method, planned.calibration, planned.smoothing_strength) == ("round-to-nearest", None, None)


def test_least_calibration_is_never_more_than_was_asked_for():
    assert plan().calibration.min_tokens == 1024
    asked = QuantiseSettings(calibration_samples=2, calibration_tokens=64)
    assert plan(settings=asked).calibration.min_tokens == 128


@pytest.mark.parametrize(("merged", "engine"), [("bfloat16", "pass-through"), ("float32", "cast"), ("float16", "cast")])
def test_sixteen_bit_is_the_merged_files_or_a_cast(merged, engine):
    assert plan("bf16", dtype=merged).engine == engine


def test_served_dtype_follows_the_hardware():
    planned = plan("bf16", defaults=QuantiserDefaults(dtype="float16"))
    assert (planned.engine, planned.dtype) == ("cast", "float16")


def test_sixteen_bit_is_made_of_any_architecture():
    assert isinstance(plan("bf16", architecture="GPT2LMHeadModel"), QuantisationPlan)


@pytest.mark.parametrize(
    ("variant", "changes", "code"),
    [
        ("int8", {"architecture": "GPT2LMHeadModel"}, "unsupported_architecture"),
        ("gptq-int4", {"linear_dims": (576, 1000)}, "group_size_impossible"),
        ("awq-int4", {"linear_dims": (48,)}, "group_size_impossible"),
        ("awq-int4", {"output_dims": (16, 576, 1536)}, "group_size_impossible"),
        ("gptq-int4", {"output_dims": (16, 576, 1536)}, "group_size_impossible"),
        ("int8", {"quantised": True}, "quantised_base"),
        ("bf16", {"quantised": True}, "quantised_base"),
    ],
)
def test_refusals_name_their_code_and_say_why(variant, changes, code):
    planned = plan(variant, **changes)
    assert isinstance(planned, Rejection)
    assert planned.code == code
    assert planned.reason.endswith(".")


@pytest.mark.parametrize("variant", ["gptq-int4", "awq-int4"])
def test_int4_without_calibration_is_refused(variant):
    planned = plan(variant, QuantiseSettings(calibration_samples=0))
    assert planned.code == "calibration_too_small"


def test_int8_needs_no_group_size():
    assert isinstance(plan(linear_dims=(577, 1001)), QuantisationPlan)


@given(st.lists(st.integers(1, 4096), min_size=1, max_size=4).map(tuple))
def test_group_size_is_the_largest_that_divides_all(dims):
    fitting = [size for size in (128, 64, 32) if not any(dim % size for dim in dims)]
    assert choose_group_size(dims) == (fitting[0] if fitting else None)


def test_smollm2_takes_groups_of_64():
    assert choose_group_size((576, 1536)) == 64


def key(planned=None, **changes):
    inputs = {
        "merged": digest_of(b"m"),
        "calibration": digest_of(b"c"),
        "held_out": digest_of(b"h"),
        "libraries": {"torch": "2.13.0", "llmcompressor": "0.14.0"},
    }
    return plan_output_key(planned or plan(), **(inputs | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"merged": digest_of(b"other")},
        {"calibration": digest_of(b"other")},
        {"calibration": None},
        {"held_out": digest_of(b"other")},
        {"evaluation": digest_of(b"other")},
        {"libraries": {"torch": "2.13.1", "llmcompressor": "0.14.0"}},
        {"planned": plan(settings=QuantiseSettings(seed=1))},
        {"planned": plan(settings=QuantiseSettings(calibration_samples=17))},
        {"planned": plan("bf16")},
        {"planned": plan(defaults=QuantiserDefaults(smoothing_strength=0.5))},
    ],
)
def test_output_key_changes_with_everything_that_decides_the_output(changes):
    assert key(**changes) != key()


def test_output_key_does_not_depend_on_order():
    assert key(libraries={"llmcompressor": "0.14.0", "torch": "2.13.0"}) == key()
