"""Adapters of a tiny base, each with other weights, made without torch; some of them damaged."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

WEIGHTS = "adapter_model.safetensors"


def make_models(folder: Path) -> Path:
    """Make the base and the adapter that all others follow from, unless they are there; return the base."""
    base = folder / "tiny-llama"
    if not (folder / "first" / WEIGHTS).exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", __name__, str(folder)], check=True)  # torch stays out of this process
    return base


def _train(folder: Path) -> None:
    from testbed.models import tiny_base, tiny_lora

    tiny_lora(tiny_base(folder / "tiny-llama"), folder / "first")


def make_adapter(folder: Path, number: int, *, damaged: bool = False) -> Path:
    """Make the adapter of a number: the first one and a little noise; a damaged one is cut off in its weights."""
    adapter = folder / f"adapter-{number}"
    if not adapter.exists():
        shutil.copytree(folder / "first", adapter)
        noise = np.random.default_rng(number)
        tensors = {
            name: tensor + noise.normal(0, 0.002, tensor.shape).astype(tensor.dtype)
            for name, tensor in load_file(folder / "first" / WEIGHTS).items()
        }
        save_file(tensors, adapter / WEIGHTS, metadata={"format": "pt"})
        if damaged:
            whole = (adapter / WEIGHTS).read_bytes()
            (adapter / WEIGHTS).write_bytes(whole[: len(whole) * 2 // 3])
    return adapter


if __name__ == "__main__":
    _train(Path(sys.argv[1]))
