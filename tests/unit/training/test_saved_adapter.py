"""What a trained LoRA is saved as: the same bytes in every process, so that a run that is resumed is the same release."""

import dataclasses
import json

from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from clients.training.trained import complete, save

SIZES = {
    "vocab_size": 259,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def test_sets_of_an_adapters_configuration_are_saved_in_order(tmp_path):
    """PEFT holds `target_modules` as a set, whose order follows from the hash seed of the process."""
    known = {field.name for field in dataclasses.fields(LoraConfig)}
    sets = {"target_modules": MODULES, "exclude_modules": ["lm_head", "embed_tokens"]}
    sets = {name: value for name, value in sets.items() if name in known}  # PEFT 0.12 excludes none
    trained = get_peft_model(LlamaForCausalLM(LlamaConfig(**SIZES)), LoraConfig(r=2, **sets))
    save(trained, tmp_path, None)
    complete(trained, tmp_path, None)
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert {name: written[name] for name in sets} == {name: sorted(value) for name, value in sets.items()}
    assert (tmp_path / "adapter_model.safetensors").is_file()
