"""16-bit variants of models merged in another dtype: tensors are cast shard by shard."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file


def cast_folder(merged: Path, output: Path, dtype: str, on_shard: Callable[[int, int], None]) -> None:
    """Cast floating-point tensors of all weight files to `dtype`.

    Args:
        merged: Folder of the merged model.
        output: Folder to write: weights, index and `config.json`.
        dtype: `bfloat16` or `float16`.
        on_shard: Called with files done and in total.
    """
    shards = sorted(merged.glob("*.safetensors"))
    total_bytes = 0
    for done, shard in enumerate(shards, start=1):
        with safe_open(shard, framework="pt") as source:
            tensors = {name: _cast(source.get_tensor(name), dtype) for name in source.keys()}  # noqa: SIM118 - no mapping
        total_bytes += sum(tensor.nbytes for tensor in tensors.values())
        save_file(tensors, output / shard.name, metadata={"format": "pt"})
        on_shard(done, len(shards))
    index = merged / "model.safetensors.index.json"
    if index.exists():
        body = json.loads(index.read_text())
        body["metadata"] = {**body.get("metadata", {}), "total_size": total_bytes}
        (output / index.name).write_text(json.dumps(body, indent=2, sort_keys=True))
    config = json.loads((merged / "config.json").read_text())
    config |= {"dtype": dtype, "torch_dtype": dtype}
    (output / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True))


def _cast(tensor: torch.Tensor, dtype: str) -> torch.Tensor:
    return tensor.to(getattr(torch, dtype)) if tensor.is_floating_point() else tensor
