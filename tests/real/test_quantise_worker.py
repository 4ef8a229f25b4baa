"""The quantising child process on tiny real models: what it writes, what it refuses."""

import json
import math

import pytest
from safetensors import safe_open

from contracts.facts import QuantiseSettings
from decisions.checkpoints.architectures import QUANTISED_ARCHITECTURES
from services.quantiser.adapters.engine import WorkerEngine
from services.quantiser.domain import HeldOutPlan
from shared.errors import Permanent
from testbed.models import tiny_base, tiny_config_of
from tests.real.quantising import order, quantise_here

pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("ignore::UserWarning")]


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    return tiny_base(tmp_path_factory.mktemp("model") / "merged")


def child(folder, **settings):
    options = {"threads": 1, "memory_limit_bytes": None, "timeout_s": 240.0} | settings
    return WorkerEngine(log_path=folder / "work.log", **options)


async def quantise(job, folder, **settings):
    steps = []
    made = await child(folder, **settings).quantise(job, lambda *step: steps.append(step))
    return made, steps


def tensors(folder):
    by_name = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as source:
            by_name |= {name: source.get_tensor(name) for name in source.keys()}  # noqa: SIM118
    return by_name


async def test_int8_with_own_calibration_set(merged, tmp_path):
    calibration = tmp_path / "set.jsonl"
    message = {"role": "user", "content": "Tell me, please, how a slipway works; and why it is greased."}
    calibration.write_text("\n".join(json.dumps({"messages": [message]}) for _ in range(20)))
    made, steps = await quantise(order(merged, tmp_path, calibration=calibration), tmp_path)
    assert made.calibration_tokens == 512
    assert made.quality.tokens == 5 * 255
    assert 0 < made.quality.mean_kl < 1
    assert 0.5 < made.quality.perplexity_ratio < 2
    assert made.quality.p99_kl > made.quality.mean_kl
    assert made.quality.perplexity_ratio == pytest.approx(made.quality.perplexity / made.quality.reference_perplexity)
    assert all(window.nll != window.reference_nll for window in made.held_out)
    for step in ("smooth", "quantise"):
        assert [done for name, done, total, unit in steps if name == step and (total, unit) == (2, "layers")] == [
            0,
            1,
            2,
        ]
    written = tensors(tmp_path / "output")
    assert str(written["model.layers.0.mlp.up_proj.weight"].dtype) == "torch.int8"
    assert str(written["model.layers.0.mlp.up_proj.weight_scale"].dtype) == "torch.float32"
    assert str(written["model.embed_tokens.weight"].dtype) == "torch.bfloat16"
    assert str(written["model.norm.weight"].dtype) == "torch.bfloat16"
    assert "lm_head.weight" not in written  # tied before, tied after
    config = json.loads((tmp_path / "output" / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "compressed-tensors"
    assert config["quantization_config"]["ignore"] == ["lm_head"]
    assert config["tie_word_embeddings"] is True
    assert not (tmp_path / "output" / "recipe.yaml").exists()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (tmp_path / "output" / name).read_bytes() == (merged / name).read_bytes()


@pytest.mark.full
def test_round_to_nearest_needs_no_calibration(merged, tmp_path):
    made = quantise_here(order(merged, tmp_path, settings=QuantiseSettings(calibration_samples=0)))
    assert made.calibration_tokens == 0
    assert 0 < made.quality.mean_kl < 1
    assert str(tensors(tmp_path / "output")["model.layers.1.self_attn.o_proj.weight"].dtype) == "torch.int8"


@pytest.mark.full
def test_same_order_gives_the_same_bytes(merged, tmp_path):
    outputs = []
    for name in ("one", "two"):
        folder = tmp_path / name
        quantise_here(order(merged, folder))
        outputs.append((folder / "output" / "model.safetensors").read_bytes())
    assert outputs[0] == outputs[1]


def test_untied_head_stays_in_16_bit(tmp_path):
    merged = tiny_base(tmp_path / "merged", tied=False)
    quantise_here(order(merged, tmp_path))
    assert str(tensors(tmp_path / "output")["lm_head.weight"].dtype) == "torch.bfloat16"


def test_cast_of_a_sharded_fp32_model(tmp_path):
    import torch

    merged = tiny_base(tmp_path / "merged", dtype=torch.float32, shard_size="40KB")
    assert len(list(merged.glob("*.safetensors"))) > 1
    made = quantise_here(order(merged, tmp_path, variant="bf16", dtype="float32"))
    before, after = tensors(merged), tensors(tmp_path / "output")
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], before[name].to(torch.bfloat16)) for name in before)
    assert 0 <= made.quality.mean_kl < 0.01
    assert json.loads((tmp_path / "output" / "config.json").read_text())["dtype"] == "bfloat16"


def test_files_passed_through_are_measured_as_they_are(merged, tmp_path):
    """A serving engine is held against these figures, so that they must be there, and fit its context."""
    before = {path.name: path.read_bytes() for path in merged.iterdir()}
    job = order(merged, tmp_path, variant="bf16").model_copy(update={"output": merged})
    plan = job.plan.model_copy(update={"held_out": HeldOutPlan(windows=3, tokens=2048)})
    made = quantise_here(job.model_copy(update={"plan": plan}))
    assert {path.name: path.read_bytes() for path in merged.iterdir()} == before
    assert (made.quality.perplexity_ratio, made.quality.mean_kl, made.quality.tokens) == (1.0, 0.0, 3 * 510)
    assert [len(window.token_ids) for window in made.held_out] == [511] * 3, "one less than the model's context"
    assert [window.nll for window in made.held_out] == [window.reference_nll for window in made.held_out]
    nll = sum(window.nll for window in made.held_out) / made.quality.tokens
    assert made.quality.perplexity == made.quality.reference_perplexity == pytest.approx(math.exp(nll))


FAMILIES = {
    "MistralForCausalLM": ("mistral", {}),
    "Ministral3ForCausalLM": ("ministral3", {}),
    "Qwen2ForCausalLM": ("qwen2", {}),
    "Qwen3ForCausalLM": ("qwen3", {}),
    "Qwen3_5ForCausalLM": ("qwen3_5_text", {"layer_types": ["linear_attention", "full_attention"]}),
    "GraniteForCausalLM": ("granite", {}),
    "Gemma2ForCausalLM": ("gemma2", {}),
    "Gemma3ForCausalLM": ("gemma3_text", {"layer_types": ["sliding_attention", "full_attention"]}),
    "SmolLM3ForCausalLM": ("smollm3", {}),
    "Phi3ForCausalLM": ("phi3", {}),
}


def test_a_test_covers_each_family():
    assert {*FAMILIES, "LlamaForCausalLM"} == QUANTISED_ARCHITECTURES


UNLIKE_LLAMA = "Gemma3ForCausalLM"
"""Another order of the norms: what `make test` shows beside Llama."""


@pytest.mark.parametrize(
    "family",
    [family if family == UNLIKE_LLAMA else pytest.param(family, marks=pytest.mark.full) for family in FAMILIES],
)
def test_other_supported_families(family, tmp_path):
    """Scales that were folded into a norm of other layers would move the answers by far more than rounding."""
    model_type, settings = FAMILIES[family]
    merged = tiny_base(tmp_path / "merged", config=tiny_config_of(model_type, **settings))
    assert json.loads((merged / "config.json").read_text())["architectures"] == [family]
    made = quantise_here(order(merged, tmp_path))
    assert made.quality.mean_kl < 0.02
    assert str(tensors(tmp_path / "output")["model.layers.1.mlp.down_proj.weight"].dtype) == "torch.int8"


@pytest.mark.full
def test_evaluation_quantises_activations_as_serving_does(merged, tmp_path):
    """Without it the measurement would only see the weights, and flatter the variant."""
    import torch

    from services.quantiser.adapters.evaluation import load_compressed

    quantise_here(order(merged, tmp_path))
    model = load_compressed(tmp_path / "output")
    ids = torch.arange(3, 200)[None]
    with torch.inference_mode():
        served = model(input_ids=ids).logits
        for module in model.modules():
            module.quantization_enabled = False
        weights_only = model(input_ids=ids).logits
    assert not torch.equal(served, weights_only)


def test_small_calibration_set_is_refused(merged, tmp_path):
    calibration = tmp_path / "set.jsonl"
    calibration.write_text('{"text": "too short"}\n')
    with pytest.raises(Permanent) as raised:
        quantise_here(order(merged, tmp_path, calibration=calibration))
    assert raised.value.code == "calibration_too_small"
    assert "the minimum is 256" in raised.value.reason


def test_model_whose_logits_are_not_finite_is_refused(tmp_path):
    import torch

    merged = tiny_base(tmp_path / "merged")
    import safetensors.torch

    weights = tensors(merged)
    weights["model.norm.weight"] = torch.full_like(weights["model.norm.weight"], float("nan"))
    safetensors.torch.save_file(weights, merged / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Permanent) as raised:
        quantise_here(order(merged, tmp_path, settings=QuantiseSettings(calibration_samples=0)))
    assert raised.value.code == "engine_failed"
    assert "not finite" in raised.value.reason
