"""What a trained LoRA is saved as: the same bytes in every process, so that a run that is resumed is not published again."""

import json

from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

from clients.training.trained import save
from testbed.models import ATTENTION, tiny_config

MODULES = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]


def test_sets_of_an_adapters_configuration_are_saved_in_order(tmp_path):
    """PEFT holds `target_modules` as a set, whose order follows from the hash seed of the process."""
    config = LoraConfig(r=2, target_modules=MODULES, exclude_modules=["lm_head", "embed_tokens"])
    save(get_peft_model(LlamaForCausalLM(tiny_config()), config), tmp_path, None)
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert written["target_modules"] == sorted(MODULES)
    assert written["exclude_modules"] == ["embed_tokens", "lm_head"]
    assert (tmp_path / "adapter_model.safetensors").is_file()
