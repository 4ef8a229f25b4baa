"""Checkpoints with changed weights."""

from safetensors.torch import load_file, save_file

WEIGHTS = "adapter_model.safetensors"


def edit_weights(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
