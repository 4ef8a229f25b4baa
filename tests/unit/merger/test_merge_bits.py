"""The merged weights are, bit by bit, PEFT's own float32 merge rounded once."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from services.merger.adapters import parity, safetensors_header, streaming, work
from services.merger.adapters.peft_model import LayerwiseMerge
from services.merger.adapters.streaming import DTYPES
from tests.kit.models import ATTENTION, tiny_base, tiny_full, tiny_lora

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def peft_merge(base, adapter):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload(safe_merge=True).state_dict()


def load_all(folder):
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


LORAS = {
    "plain": {},
    "all linear": {"target_modules": "all-linear"},
    "a pattern of modules": {"target_modules": r".*layers\.1\..*(gate|up)_proj"},
    "rsLoRA": {"use_rslora": True},
    "DoRA": {"use_dora": True},
    "ranks by pattern": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 32}},
    "saved norm": {"modules_to_save": ["norm"]},
    "dropout": {"lora_dropout": 0.3},
    "rank larger than the layer": {"r": 48},
}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("settings", LORAS.values(), ids=LORAS.keys())
def test_equals_pefts_merge_to_the_last_bit(made, order, tmp_path, settings, dtype):
    adapter = tiny_lora(made["base"], tmp_path / "lora", **settings)
    one = order(checkpoint=adapter, dtype=dtype)
    work.merge(one)
    expected, found = peft_merge(one.base, adapter), load_all(one.out)
    assert found.keys() == set(expected) - {"lm_head.weight"}
    for name, tensor in found.items():
        assert tensor.dtype == DTYPES[dtype]
        assert torch.equal(tensor, expected[name].to(DTYPES[dtype])), name
    before = load_all(one.base)
    assert any(not torch.equal(found[name].float(), before[name].float()) for name in found)


@pytest.mark.parametrize("module", ["embed_tokens", "lm_head"])
def test_untied_embeddings_can_carry_a_lora(made, order, tmp_path, module):
    adapter = tiny_lora(made["untied"], tmp_path / "lora", target_modules=[*ATTENTION, module])
    one = order(base="untied", checkpoint=adapter)
    work.merge(one)
    expected, found = peft_merge(one.base, adapter), load_all(one.out)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name].bfloat16()) for name in found)


def test_untied_saved_head_is_taken_as_it_was_trained(made, order, tmp_path):
    adapter = tiny_lora(made["untied"], tmp_path / "lora", modules_to_save=["lm_head"])
    one = order(base="untied", checkpoint=adapter)
    work.merge(one)
    expected, found = peft_merge(one.base, adapter), load_all(one.out)
    assert torch.equal(found["lm_head.weight"], expected["lm_head.weight"].bfloat16())
    assert not torch.equal(found["lm_head.weight"], load_all(one.base)["lm_head.weight"])


def test_a_sharded_base_gives_the_same_weights(order, tmp_path):
    base = tiny_base(tmp_path / "sharded", shard_size="20KB")
    assert len(list(base.glob("*.safetensors"))) > 1
    adapter = tiny_lora(base, tmp_path / "lora")
    one = order(base=base, checkpoint=adapter)
    work.merge(one)
    expected, found = peft_merge(base, adapter), load_all(one.out)
    assert all(torch.equal(found[name], expected[name].bfloat16()) for name in found)


def test_small_shards_hold_everything_once_and_can_be_loaded(order, monkeypatch):
    one = order()
    facts = safetensors_header.read_folder(one.base)
    monkeypatch.setattr(streaming, "plan_shards", lambda sizes: [[name for name, _ in sizes[i::3]] for i in range(3)])
    streaming.write_merged(
        one.base, facts, one.out,
        merge=LayerwiseMerge(one.base, one.checkpoint), dtype="float32", progress=lambda _done, _total: None,
    )  # fmt: skip
    streaming.carry_over(one.base, one.out, dtype="float32")
    index = json.loads((one.out / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(facts.tensors)
    loaded = AutoModelForCausalLM.from_pretrained(one.out).state_dict()
    expected = peft_merge(one.base, one.checkpoint)
    assert all(torch.equal(loaded[name], expected[name]) for name in loaded)


def test_what_no_tensor_consumed_is_an_error(order):
    one = order()
    merge = LayerwiseMerge(one.base, one.checkpoint)
    facts = safetensors_header.read_folder(one.base)
    weights = {name: info for name, info in facts.tensors.items() if "layers.0.self_attn.q_proj" not in name}
    partial = safetensors_header.FolderFacts(
        facts.sizes, (safetensors_header.WeightsFile("model.safetensors", weights),), facts.config
    )
    with pytest.raises(streaming.LeftOverError, match=r"model\.layers\.0\.self_attn\.q_proj"):
        streaming.write_merged(
            one.base, partial, one.out, merge=merge, dtype="bfloat16", progress=lambda _done, _total: None
        )


def test_tokenizer_and_template_are_carried_over_byte_by_byte(order):
    one = order()
    work.merge(one)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"):
        assert (one.out / name).read_bytes() == (one.base / name).read_bytes(), name
    assert parity.rendered_prompt_digest(one.out) == parity.rendered_prompt_digest(one.base)


def test_remote_code_does_not_reach_the_merged_model(order):
    one = order()
    config = json.loads((one.base / "config.json").read_text())
    (one.base / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "evil.Model"}}))
    (one.base / "evil.py").write_text("raise SystemExit")
    work.merge(one)
    assert "auto_map" not in json.loads((one.out / "config.json").read_text())
    assert not (one.out / "evil.py").exists()


def test_full_weights_in_the_saved_dtype_pass_unchanged(made, order):
    one = order(checkpoint="full", kind="full")
    work.merge(one)
    assert all(torch.equal(tensor, load_all(made["full"])[name]) for name, tensor in load_all(one.out).items())
    found = work.verify(one)
    assert found["parity"]["max_abs_logit_difference"] == 0.0
    assert found["parity"]["effect_kl"] is None


def test_full_weights_in_float32_are_rounded_once(made, order, tmp_path):
    full = tiny_full(made["base"], tmp_path / "full", dtype=torch.float32)
    one = order(checkpoint=full, kind="full")
    work.merge(one)
    exact = load_all(full)
    assert all(torch.equal(tensor, exact[name].bfloat16()) for name, tensor in load_all(one.out).items())
    assert json.loads((one.out / "config.json").read_text())["dtype"] == "bfloat16"


def test_parity_sees_no_difference_in_float32_and_a_small_one_in_bfloat16(order, tmp_path):
    one = order(dtype="float32")
    work.merge(one)
    exact = work.verify(one)
    assert exact["parity"]["max_abs_logit_difference"] < 1e-3
    assert exact["parity"]["top1_agreement_ratio"] == 1.0
    assert exact["parity"]["effect_kl"] > 100 * exact["parity"]["mean_kl"]
    assert exact["rendered_prompt_digest"] == exact["base_rendered_prompt_digest"]


def test_parity_sees_a_lora_that_was_not_merged(order):
    one = order()
    lost = parity.measure_parity(one.base, one.checkpoint, one.base, lambda _done, _total: None)
    assert lost.mean_kl == pytest.approx(lost.effect_kl, rel=1e-3)
    assert lost.mean_kl > 0.01
