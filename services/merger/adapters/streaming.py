"""Writes a merged model shard by shard: never more than one shard and one float32 tensor in memory."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from services.merger.domain import (
    FolderFacts,
    SaveDtype,
    TensorInfo,
    is_carried_over,
    plan_shards,
    shard_name,
    strip_remote_code,
)

DTYPES: dict[SaveDtype, torch.dtype] = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}
FLOATING = frozenset({"BF16", "F16", "F32", "F64"})
Progress = Callable[[int, int], None]


class TensorMerge(Protocol):
    """Gives the merged tensor for one tensor of the base."""

    def merge(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """Merge one tensor in float32, or give it back unchanged."""
        ...

    def left_over(self) -> list[str]:
        """Name what was not merged although it should have been."""
        ...


class NoMerge:
    """Full weights: every tensor is already what it must be."""

    def merge(self, name: str, weight: torch.Tensor) -> torch.Tensor:  # noqa: ARG002 - the protocol's signature
        """Give the tensor back."""
        return weight

    def left_over(self) -> list[str]:
        """Nothing is ever left over."""
        return []


class LeftOverError(Exception):
    """A module that the adapter changes has no tensor in the base: its training would be lost."""


def write_merged(
    source: Path, facts: FolderFacts, out: Path, *, merge: TensorMerge, dtype: SaveDtype, progress: Progress
) -> None:
    """Write every tensor of `source`, merged and rounded once to `dtype`, as safetensors shards into `out`.

    Raises:
        LeftOverError: an adapted module was never met.
        ValueError: a merged tensor holds NaN or infinity.
    """
    out.mkdir(parents=True, exist_ok=True)
    width = torch.finfo(DTYPES[dtype]).bits // 8
    where = {name: file.path for file in facts.weights for name in file.tensors}
    sizes = [(name, saved_bytes(info, width)) for name, info in facts.tensors.items()]
    shards = plan_shards(sizes)
    index: dict[str, str] = {}
    for position, names in enumerate(shards):
        shard: dict[str, torch.Tensor] = {}
        for name in names:
            with safe_open(str(source / where[name]), framework="pt") as file:
                tensor = file.get_tensor(name)
            shard[name] = rounded(name, merge.merge(name, tensor), dtype)
            index[name] = shard_name(position, len(shards))
            progress(len(index), len(sizes))
        save_file(shard, str(out / shard_name(position, len(shards))), metadata={"format": "pt"})
    if merge.left_over():
        msg = f"{len(merge.left_over())} adapted modules have no weights in the base: {merge.left_over()[0]}"
        raise LeftOverError(msg)
    if len(shards) > 1:
        write_json(out / "model.safetensors.index.json", index_of(index, sum(size for _, size in sizes)))


def rounded(name: str, tensor: torch.Tensor, dtype: SaveDtype) -> torch.Tensor:
    """Round a floating-point tensor to the saved dtype, once.

    Raises:
        ValueError: it holds NaN or infinity, perhaps only since float16 cannot hold its numbers.
    """
    if not tensor.is_floating_point():
        return tensor.contiguous()
    saved = tensor.to(DTYPES[dtype]).contiguous()
    if not bool(torch.isfinite(saved).all()):
        msg = f"{name} is not finite as {dtype}"
        raise ValueError(msg)
    return saved


def saved_bytes(info: TensorInfo, width: int) -> int:
    """Give the bytes a tensor takes once saved; only floating point changes its width."""
    return math.prod(info.shape) * width if info.dtype in FLOATING else info.size_bytes


def index_of(index: dict[str, str], total_bytes: int) -> dict[str, Any]:
    """Give the index that `transformers` looks for beside several shards."""
    return {"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(index.items()))}


def carry_over(base: Path, out: Path, *, dtype: SaveDtype) -> None:
    """Copy the base's tokenizer and settings byte by byte; only a configuration that lies is written anew.

    It lies when it names another dtype than the saved one, or code to import from the folder.
    """
    for path in sorted(base.iterdir()):
        if path.is_file() and is_carried_over(path.name):
            shutil.copyfile(path, out / path.name)
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    honest = strip_remote_code(config)
    for key in ("dtype", "torch_dtype"):
        if key in honest:
            honest[key] = dtype
    if honest != config:
        write_json(out / "config.json", honest)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file as `transformers` does: indented, sorted, with a last newline."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
