"""INT4 on tiny real models: what each engine writes, that it reloads, and that AutoAWQ's defect stays fixed."""

import json

import pytest
import torch
from safetensors import safe_open

from clients.cli.sources.sample_model import save_tokenizer
from contracts.facts import QuantiseSettings
from services.quantiser.adapters import quantise_worker
from services.quantiser.adapters.evaluation import dequantise, load_awq, load_compressed, unpack
from services.quantiser.domain import QuantiserDefaults, plan_quantisation, read_shape
from services.quantiser.ports import QuantisationJob
from shared.errors import Permanent
from testbed.models import tiny_base

pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("ignore::UserWarning")]
SETTINGS = QuantiseSettings(calibration_samples=3, calibration_tokens=96)
WIDE = 64


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    return tiny_base(tmp_path_factory.mktemp("model") / "merged", hidden=WIDE)


def order(merged, folder, variant, engine="autoawq", **more):
    config = json.loads((merged / "config.json").read_text())
    defaults = QuantiserDefaults(held_out_windows=5, held_out_tokens=256, min_calibration_tokens=256, awq_engine=engine)
    plan = plan_quantisation(variant, read_shape(config, "bfloat16"), SETTINGS, defaults)
    return QuantisationJob(plan=plan, merged=merged, output=folder / "output", **more)


def tensors(folder):
    by_name = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as source:
            by_name |= {name: source.get_tensor(name) for name in source.keys()}  # noqa: SIM118
    return by_name


def layers_told(text):
    progress = [json.loads(line)["progress"] for line in text.splitlines() if line.startswith('{"progress"')]
    return [(report["done"], report["total"]) for report in progress if report["step"] == "quantise"]


NAMES = {
    ("gptq-int4", "llmcompressor"): {"weight_packed", "weight_scale", "weight_shape"},
    ("awq-int4", "autoawq"): {"qweight", "qzeros", "scales"},
    ("awq-int4", "llmcompressor"): {"weight_packed", "weight_scale", "weight_shape", "weight_zero_point"},
}


@pytest.mark.parametrize(
    ("variant", "engine"),
    [pytest.param(*pair, marks=pytest.mark.full) if pair == ("awq-int4", "llmcompressor") else pair for pair in NAMES],
)
def test_int4_is_packed_in_groups_reloads_and_tells_its_layers(merged, tmp_path, capfd, variant, engine):
    names, method = NAMES[variant, engine], "awq" if engine == "autoawq" else "compressed-tensors"
    job = order(merged, tmp_path, variant, engine)
    made = quantise_worker.quantise(job)
    assert job.plan.engine == engine
    assert made.calibration_tokens == 3 * 96
    assert made.quality.tokens == 5 * 255
    assert 0 < made.quality.mean_kl < 0.15
    assert made.quality.mean_kl < made.quality.p99_kl < 1
    assert layers_told(capfd.readouterr().out) == [(0, 2), (1, 2), (2, 2)]
    written, before = tensors(job.output), tensors(merged)
    layer = "model.layers.1.mlp.down_proj."
    assert {name.removeprefix(layer) for name in written if name.startswith(layer)} == names
    scales = written[layer + ("scales" if method == "awq" else "weight_scale")]
    assert scales.numel() == WIDE * (2 * WIDE // 64)  # one for each output of each group of 64 inputs
    assert scales.dtype == (torch.float16 if method == "awq" else torch.bfloat16)
    assert torch.equal(written["model.embed_tokens.weight"], before["model.embed_tokens.weight"])
    assert written["model.norm.weight"].dtype == torch.bfloat16
    assert "lm_head.weight" not in written  # tied before, tied after
    config = json.loads((job.output / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == method
    assert (config["dtype"], config["tie_word_embeddings"]) == ("bfloat16", True)
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (job.output / name).read_bytes() == (merged / name).read_bytes()
    model = load_awq(job.output, "bfloat16") if method == "awq" else load_compressed(job.output)
    reloaded = model.get_submodule(layer.removesuffix(".")).weight
    assert len(torch.unique(reloaded[0, :64])) <= 16  # a group has sixteen steps, no more


@pytest.mark.skipif(torch.cuda.is_available(), reason="the defect shows where nothing is copied to an accelerator")
@pytest.mark.parametrize("ours", [False, True], ids=["as it is", "ours"])
def test_search_for_scales_leaves_the_weights_alone_only_in_our_autoawq(merged, tmp_path, monkeypatch, ours):
    """In AutoAWQ as it is, the weights after a search on a CPU are those of its last trial, rounded to 4 bits."""
    from awq.quantize.quantizer import AwqQuantizer

    from services.quantiser.adapters import autoawq  # here: seconds, which other workers need not spend

    changes = []

    class Watched(autoawq.SafeAwqQuantizer if ours else AwqQuantizer):
        def _compute_best_scale(self, x, w_mean, x_mean, module2inspect, *args, **more):
            before = {name: tensor.clone() for name, tensor in module2inspect.state_dict().items()}
            best = super()._compute_best_scale(x, w_mean, x_mean, module2inspect, *args, **more)
            after = module2inspect.state_dict()
            changes.extend(float((after[name] - before[name]).norm() / before[name].norm()) for name in before)
            return best

    monkeypatch.setattr(autoawq, "SafeAwqQuantizer", Watched)
    quantise_worker.quantise(order(merged, tmp_path, "awq-int4"))
    assert len(changes) == 2 * (4 + 3 + 1)  # of each layer: attention, MLP, its last projection
    if ours:
        assert max(changes) == 0.0
    else:
        assert max(changes) > 0.05


@pytest.mark.parametrize(
    "family", [pytest.param(family, marks=pytest.mark.full) for family in ("Qwen3", "Mistral", "Qwen2")]
)
def test_autoawq_makes_the_other_families_too(family, tmp_path):
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=259,
        hidden_size=WIDE,
        intermediate_size=2 * WIDE,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
        **({"head_dim": 16} if family == "Qwen3" else {}),
    )
    merged = tmp_path / "merged"
    getattr(transformers, f"{family}ForCausalLM")(config).to(torch.bfloat16).save_pretrained(merged)
    save_tokenizer(merged)
    job = order(merged, tmp_path, "awq-int4")
    assert job.plan.engine == "autoawq"
    assert quantise_worker.quantise(job).quality.mean_kl < 0.1
    assert tensors(job.output)["lm_head.weight"].dtype == torch.bfloat16


@pytest.mark.full
def test_own_evaluation_set_is_measured_and_never_calibrates(merged, tmp_path):
    passages = [f"Slipway number {n} was greased with tallow, soap and oil before the launch." for n in range(60)]
    texts = tmp_path / "texts.jsonl"
    texts.write_text("\n".join(json.dumps({"text": passage}) for passage in passages))
    made = quantise_worker.quantise(order(merged, tmp_path, "gptq-int4", evaluation=texts))
    assert made.evaluation_quality.tokens == 5 * 255  # not half of the 5 windows: as many as a verdict needs
    assert made.evaluation_quality.mean_kl != made.quality.mean_kl
    with pytest.raises(Permanent, match="has 0 tokens in 0 usable samples"):
        quantise_worker.quantise(order(merged, tmp_path, "gptq-int4", evaluation=texts, calibration=texts))


def test_packed_integers_are_where_the_format_has_them():
    """Eight channels go into one integer, even ones first: 0, 2, 4, 6, 1, 3, 5, 7 from the low end."""
    channels = [3, 14, 0, 15, 7, 8, 1, 9]
    packed = sum(channels[channel] << 4 * place for place, channel in enumerate((0, 2, 4, 6, 1, 3, 5, 7)))
    signed = packed - 2**32 if packed >= 2**31 else packed
    assert unpack(torch.tensor([[signed]], dtype=torch.int32)).tolist() == [channels]
    qweight = torch.tensor([[signed], [0]], dtype=torch.int32)
    zeros = torch.tensor([[0x33333333]], dtype=torch.int32)
    weights = dequantise(qweight, zeros, torch.full((1, 8), 0.5, dtype=torch.float16))
    assert weights[:, 0].tolist() == [(channel - 3) / 2 for channel in channels]
    assert weights[:, 1].tolist() == [-1.5] * 8
