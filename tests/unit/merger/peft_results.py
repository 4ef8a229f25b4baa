"""What peft merges, to compare with."""

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from services.merger.adapters import (
    tensors,
)
from services.merger.adapters.streaming import SAVED


def peft_merge(base, adapter, rows=None):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if rows is not None:
        model.resize_token_embeddings(rows, mean_resizing=False)
    return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload(safe_merge=True).state_dict()


def load_all(folder):
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def assert_same_bits(merged, expected, dtype="bfloat16"):
    width = tensors.DTYPES[SAVED[dtype]]
    tied = {"lm_head.weight"} if "lm_head.weight" not in merged else set()
    assert merged.keys() == set(expected) - tied
    for name, tensor in merged.items():
        assert tensor.dtype == width
        assert torch.equal(tensor, expected[name].to(width)), name
