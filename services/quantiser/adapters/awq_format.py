"""Reads models in AutoAWQ's format: unpacks 4-bit integers, eight in a 32-bit one, and dequantises them."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from transformers import AutoConfig

CHANNEL_ORDER = [0, 4, 1, 5, 2, 6, 3, 7]
"""Position of each of eight neighbouring channels in a packed integer, in 4-bit steps from the low end."""
PACKED = (".qweight", ".qzeros", ".scales")


def unpack(packed: torch.Tensor) -> torch.Tensor:
    """Return the 4-bit integers of a packed matrix: [rows, columns] becomes [rows, 8 * columns]."""
    steps = (packed[:, :, None] >> torch.arange(0, 32, 4)) & 0xF
    return steps[:, :, CHANNEL_ORDER].flatten(1)


def dequantise(qweight: torch.Tensor, qzeros: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Return the fp32 weight [outputs, inputs] of a packed layer.

    Args:
        qweight: [inputs, outputs / 8], packed.
        qzeros: [groups, outputs / 8], packed.
        scales: [groups, outputs], in the dtype that serving computes in.
    """
    group_size = qweight.shape[0] // scales.shape[0]
    zeros = unpack(qzeros).repeat_interleave(group_size, dim=0)
    steps = scales.float().repeat_interleave(group_size, dim=0)
    return ((unpack(qweight) - zeros) * steps).t().contiguous()


def load_awq(folder: Path, dtype: str) -> Any:
    """Load a model in AutoAWQ's format in fp32, with its scales rounded to `dtype` as the serving engine does it."""
    stored: dict[str, torch.Tensor] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as source:
            stored |= {name: source.get_tensor(name) for name in source.keys()}  # noqa: SIM118 - no mapping
    state = {name: tensor.float() for name, tensor in stored.items() if not name.endswith(PACKED)}
    for layer in (name.removesuffix(".qweight") for name in stored if name.endswith(".qweight")):
        scales = stored[f"{layer}.scales"].to(getattr(torch, dtype))
        state[f"{layer}.weight"] = dequantise(stored[f"{layer}.qweight"], stored[f"{layer}.qzeros"], scales)
    described = json.loads((folder / "config.json").read_text())
    described.pop("quantization_config")
    config = AutoConfig.for_model(**described)
    model_class = getattr(transformers, config.architectures[0])
    return model_class.from_pretrained(None, config=config, state_dict=state, dtype=torch.float32)
