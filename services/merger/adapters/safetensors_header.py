"""Reads what a folder of safetensors holds, without torch and without reading a weight.

The format: 8 bytes little-endian length, a JSON header of that length, then the bytes of the tensors.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.merger.adapters.remote_folder import Shelf
from services.merger.domain import (
    ADAPTER_WEIGHTS,
    WEIGHTS,
    WEIGHTS_INDEX,
    FolderFacts,
    TensorInfo,
    WeightsFile,
    assess_index,
)
from shared.errors import Permanent

LENGTH_BYTES = 8
FIRST_READ_BYTES = 64 * 1024
HEADER_LIMIT_BYTES = 100_000_000
NAME_LIMIT_BYTES = 1000  # or no message could repeat it
BITS = {
    "F4": 4,
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
}
LARGEST = 2**63 - 1  # that torch and the safetensors library can count to


def read_folder(shelf: Shelf, config: Path) -> FolderFacts:
    """Describe a model's folder: sizes, the headers of its weights, and its configuration, a local file.

    Raises:
        Permanent: `artifact_not_found`, `truncated_weights` when its index does not say where the weights are.
    """
    weights = tuple(read_weights(shelf, name) for name in find_weights(shelf, config.parent))
    return FolderFacts(shelf.sizes, weights, read_config(config))


def read_adapter(shelf: Shelf, config: Path) -> FolderFacts:
    """Describe a LoRA's folder: sizes, the header of the one file that PEFT reads, and its configuration."""
    return FolderFacts(shelf.sizes, (read_weights(shelf, ADAPTER_WEIGHTS),), read_config(config))


def find_weights(shelf: Shelf, room: Path) -> list[str]:
    """Name the files that transformers would load a model from: `WEIGHTS`, else what the index names.

    Other safetensors beside them (the original layout of a model, another dtype) are not the model's.
    """
    if WEIGHTS in shelf.sizes:
        return [WEIGHTS]
    index = read_config(shelf.fetch([WEIGHTS_INDEX], room) / WEIGHTS_INDEX)
    refusal = assess_index(index, shelf.sizes)
    if refusal is not None:
        raise Permanent(refusal.code, refusal.reason, **refusal.details)
    return sorted(set((index or {})["weight_map"].values()))


def read_config(path: Path) -> dict[str, Any] | None:
    """Read a configuration; None where the file holds no JSON object."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return config if isinstance(config, dict) else None


def read_weights(shelf: Shelf, name: str) -> WeightsFile:
    """Read the header of one file, and check that the file is as long as it says."""
    size = shelf.sizes[name]
    start = bytes(shelf.read(name, 0, min(size, FIRST_READ_BYTES))) if size else b""
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    data_start = LENGTH_BYTES + length
    if size < LENGTH_BYTES or not 0 < length <= min(size - LENGTH_BYTES, HEADER_LIMIT_BYTES):
        return WeightsFile(name, {}, f"the file of {size} bytes ends before its header does")
    if data_start > len(start):
        start += bytes(shelf.read(name, len(start), data_start - len(start)))
    try:
        tensors = read_tensors(json.loads(start[LENGTH_BYTES:data_start].decode("utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return WeightsFile(name, {}, f"the header is not that of a safetensors file ({error})")
    expected = data_start + sum(info.size_bytes for info in tensors.values())
    if size != expected:
        return WeightsFile(name, tensors, f"the file has {size} bytes, its header promises {expected}")
    return WeightsFile(name, tensors, data_start=data_start)


def read_tensors(header: Mapping[str, Any]) -> dict[str, TensorInfo]:
    """Read the entries of a header, in the order of their bytes.

    Raises:
        ValueError: an entry contradicts itself, or the entries do not follow each other without a gap.
        AttributeError, KeyError, TypeError: something is of another kind than the format says.
    """
    metadata = header.get("__metadata__")
    if metadata is not None and not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("metadata that is no text")
    entries = [(name, entry) for name, entry in header.items() if name != "__metadata__"]
    entries.sort(key=lambda item: [natural(offset) for offset in item[1]["data_offsets"]])
    tensors: dict[str, TensorInfo] = {}
    position = 0
    for name, entry in entries:
        if len(name.encode("utf-8")) > NAME_LIMIT_BYTES:  # halves of characters, which JSON can name, are refused, too
            raise ValueError("the name of a tensor")
        (start, end), dtype = entry["data_offsets"], entry["dtype"]
        shape = tuple(natural(extent) for extent in entry["shape"])
        if math.prod(extent or 1 for extent in shape) > LARGEST:
            msg = f"the shape of {name}"
            raise ValueError(msg)
        if start != position or end - start != math.prod(shape) * BITS[dtype] // 8:
            msg = f"offsets of {name}"
            raise ValueError(msg)
        tensors[name] = TensorInfo(dtype, shape, end - start)
        position = end
    return tensors


def natural(value: Any) -> int:
    """Return a number of a header; raise ValueError for anything but a whole number from 0: JSON has others, too."""
    if type(value) is not int or not 0 <= value <= LARGEST:
        msg = f"{str(value)[:20]} where a whole number must be"
        raise ValueError(msg)
    return value


def write_header(tensors: Mapping[str, TensorInfo]) -> bytes:
    """Return length and header of a file that holds these tensors in this order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, info in tensors.items():
        header[name] = {
            "dtype": info.dtype,
            "shape": list(info.shape),
            "data_offsets": [position, position + info.size_bytes],
        }
        position += info.size_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors are aligned
    return len(text).to_bytes(LENGTH_BYTES, "little") + text
