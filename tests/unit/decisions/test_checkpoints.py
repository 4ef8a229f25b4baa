"""What a checkpoint's configuration says about its base and its training, and which models are merged and quantised."""

import pytest

from contracts.facts import BaseModelRef
from decisions.checkpoints.adapters import assess_adapter_config, describe_quantised, quantised_base
from decisions.checkpoints.architectures import assess_architecture, assess_unquantised, assess_variant

BNB = "unsloth/Llama-3.2-1B-Instruct-unsloth-bnb-4bit"


def code_of(named, base, **settings):
    ref = BaseModelRef(name=base, revision="1", uri="s3://slipway/x", digest="sha256:" + "0" * 64)
    adapter = {"peft_type": "LORA", "base_model_name_or_path": named, **settings}
    rejection = assess_adapter_config(adapter, ref)
    return rejection and rejection.code


@pytest.mark.parametrize(
    ("named", "base", "code"),
    [
        (BNB, "meta-llama/Llama-3.2-1B-Instruct", None),
        ("unsloth/Llama-3.2-1B-Instruct-bnb-4bit", "llama-3.2-1b-instruct", None),
        ("unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit", "meta-llama/Llama-3.1-8B-Instruct", None),
        ("unsloth/Qwen3-0.6B-unsloth-bnb-4bit", "Qwen/Qwen3-0.6B", None),
        ("unsloth/Qwen3-0.6B-unsloth-bnb-4bit", "Qwen/Qwen3-1.7B", "base_mismatch"),
        ("unsloth/Llama-3.2-1B-bnb-4bit", "meta-llama/Llama-3.2-1B-Instruct", "base_mismatch"),
        ("acme/bnb-4bit-study", "acme/study", "base_mismatch"),
    ],
)
def test_a_quantised_copy_stands_for_its_base(named, base, code):
    assert code_of(named, base) == code


@pytest.mark.parametrize(
    ("adapter", "recorded", "expected"),
    [
        ({"base_model_name_or_path": BNB}, {}, BNB),
        ({"base_model_name_or_path": "/models/llama-bnb-4bit"}, {}, "/models/llama-bnb-4bit"),
        ({"base_model_name_or_path": "acme/llama"}, {"load_in_4bit": True}, "load_in_4bit"),
        ({"base_model_name_or_path": "acme/llama"}, {"load_in_4bit": False, "load_in_8bit": True}, "load_in_8bit"),
        ({"base_model_name_or_path": "acme/llama"}, {"load_in_4bit": "no", "r": 4}, None),
        ({"base_model_name_or_path": None}, {}, None),
        (None, {"load_in_4bit": True}, "load_in_4bit"),
    ],
)
def test_training_on_a_quantised_base_is_seen_by_name_or_record(adapter, recorded, expected):
    assert quantised_base(adapter, recorded) == expected
    assert expected is None or expected in describe_quantised(expected)


@pytest.mark.parametrize("setting", [{"target_parameters": ["mlp.experts.gate_up_proj"]}, {"bias": "all"}])
def test_a_lora_on_parameters_of_experts_is_refused(setting):
    assert code_of("acme/x", "acme/x", **setting) == "unsupported_adapter"


@pytest.mark.parametrize(
    ("architecture", "merged", "quantised"),
    [
        ("LlamaForCausalLM", True, True),
        ("Gemma3ForCausalLM", True, True),
        ("Qwen3_5ForCausalLM", True, True),
        ("GPT2LMHeadModel", True, False),
        ("Gemma4ForCausalLM", True, False),
        ("Qwen3MoeForCausalLM", False, False),
        ("Gemma3ForConditionalGeneration", False, False),
    ],
)
def test_architectures(architecture, merged, quantised):
    assert (assess_architecture(architecture) is None) == merged
    assert (assess_variant("int8", architecture) is None) == quantised
    assert assess_variant("bf16", architecture) is None


def test_a_configuration_with_quantised_weights_is_refused():
    assert assess_unquantised("checkpoint", {"quantization_config": {"quant_method": "bitsandbytes"}}).code == (
        "quantised_base"
    )
    assert assess_unquantised("checkpoint", {"quantization_config": None}) is None
