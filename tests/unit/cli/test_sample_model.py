"""LoRAs with random weights, made from the configuration of a base alone, are LoRAs as PEFT saves them."""

import json
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from clients.cli.sources.sample_model import save_base, save_lora
from testbed.models import tiny_base, tiny_gpt2, tiny_qwen2, tiny_qwen3_moe

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.mark.parametrize("config", [None, tiny_qwen2, tiny_qwen3_moe, tiny_gpt2])
def test_peft_loads_it_onto_the_base_and_it_changes_each_module_that_it_is_for(tmp_path, config):
    base = tiny_base(tmp_path / "base", config=config and config())
    (tmp_path / "configuration").mkdir()
    shutil.copy(base / "config.json", tmp_path / "configuration")
    save_lora(tmp_path / "configuration", tmp_path / "lora", base="acme/base", seed=1)
    before = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).state_dict()
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    merged = PeftModel.from_pretrained(model, tmp_path / "lora").merge_and_unload().state_dict()
    saved = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    changed = [name for name, weights in before.items() if not torch.equal(weights, merged[name])]
    assert len(changed) == len(saved) / 2 > 0
    written = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert (written["base_model_name_or_path"], written["inference_mode"]) == ("acme/base", True)


def test_two_seeds_make_two_loras_and_the_base_is_always_the_same(tmp_path):
    for seed, name in enumerate(("one", "two")):
        save_base(tmp_path / name)
        save_lora(tmp_path / name, tmp_path / f"lora-{name}", base="base", seed=seed)
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
    loras = [(tmp_path / f"lora-{name}" / "adapter_model.safetensors").read_bytes() for name in ("one", "two")]
    assert loras[0] != loras[1]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "one")
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
