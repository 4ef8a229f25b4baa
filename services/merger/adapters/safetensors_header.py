"""Reads safetensors headers of a folder, without torch and without reading weights.

A file is an 8-byte little-endian length, a JSON header of that length, then the tensors' bytes.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.merger.adapters.remote_folder import RemoteFolder
from services.merger.domain import (
    ADAPTER_WEIGHTS,
    WEIGHTS,
    WEIGHTS_INDEX,
    FolderMetadata,
    TensorInfo,
    WeightsFile,
    assess_index,
)
from shared.errors import Permanent

LENGTH_BYTES = 8
FIRST_READ_BYTES = 64 * 1024
HEADER_LIMIT_BYTES = 100_000_000
NAME_LIMIT_BYTES = 1000  # names are repeated in error messages
PROBLEM_CHARS = 1200
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
LARGEST = 2**63 - 1  # limit of torch and safetensors


def read_folder(folder: RemoteFolder, config: Path) -> FolderMetadata:
    """Return file sizes, weight headers and configuration (from a local file) of a model folder.

    Raises:
        Permanent: `artifact_not_found` or `truncated_weights` if the index does not name the weight files.
    """
    weights = tuple(read_weights(folder, name) for name in find_weights(folder, config.parent))
    return FolderMetadata(folder.sizes, weights, read_config(config))


def read_adapter(folder: RemoteFolder, config: Path) -> FolderMetadata:
    """Return file sizes, the weights header and the configuration of a LoRA folder."""
    return FolderMetadata(folder.sizes, (read_weights(folder, ADAPTER_WEIGHTS),), read_config(config))


def find_weights(folder: RemoteFolder, local: Path) -> list[str]:
    """Return the files from which transformers loads a model: `WEIGHTS`, or else those in the index.

    Other safetensors in the folder (original layout, another dtype) are ignored.
    """
    if WEIGHTS in folder.sizes:
        return [WEIGHTS]
    index = read_config(folder.fetch([WEIGHTS_INDEX], local) / WEIGHTS_INDEX)
    rejection = assess_index(index, folder.sizes)
    if rejection is not None:
        raise Permanent(rejection.code, rejection.reason, **rejection.details)
    return sorted(set((index or {})["weight_map"].values()))


def read_config(path: Path) -> dict[str, Any] | None:
    """Parse a configuration; None if the file is no JSON object."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return config if isinstance(config, dict) else None


def read_weights(folder: RemoteFolder, name: str) -> WeightsFile:
    """Return a file's header, with `problem` set if it is invalid."""
    size = folder.sizes[name]
    start = bytes(folder.read(name, 0, min(size, FIRST_READ_BYTES))) if size else b""
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    data_start = LENGTH_BYTES + length
    if size < LENGTH_BYTES or not 0 < length <= min(size - LENGTH_BYTES, HEADER_LIMIT_BYTES):
        return WeightsFile(name, {}, f"the file of {size} bytes ends before its header")
    if data_start > len(start):
        start += bytes(folder.read(name, len(start), data_start - len(start)))
    try:
        tensors = read_tensors(json.loads(start[LENGTH_BYTES:data_start].decode("utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problem = f"the header is not a safetensors header ({str(error)[:PROBLEM_CHARS]})"
        return WeightsFile(name, {}, problem.encode(errors="replace").decode())
    expected = data_start + sum(info.size_bytes for info in tensors.values())
    if size != expected:
        return WeightsFile(name, tensors, f"the file has {size} bytes, its header describes {expected}")
    return WeightsFile(name, tensors, data_start=data_start)


def read_tensors(header: Mapping[str, Any]) -> dict[str, TensorInfo]:
    """Return the tensors of a header in byte order.

    Raises:
        ValueError: An entry contradicts itself, or entries overlap or leave a gap.
        AttributeError, KeyError, TypeError: A value has the wrong type.
    """
    metadata = header.get("__metadata__")
    if metadata is not None and not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("metadata that is not text")
    entries = [(name, entry) for name, entry in header.items() if name != "__metadata__"]
    entries.sort(key=lambda item: [read_natural_number(offset) for offset in item[1]["data_offsets"]])
    tensors: dict[str, TensorInfo] = {}
    position = 0
    for name, entry in entries:
        if len(name.encode("utf-8")) > NAME_LIMIT_BYTES:  # raises for lone surrogates, which JSON allows
            raise ValueError("the name of a tensor is too long")
        (start, end), dtype = entry["data_offsets"], entry["dtype"]
        shape = tuple(read_natural_number(extent) for extent in entry["shape"])
        if math.prod(extent or 1 for extent in shape) > LARGEST:
            msg = f"the shape of {name} is too large"
            raise ValueError(msg)
        if start != position or end - start != math.prod(shape) * BITS[dtype] // 8:
            msg = f"the offsets of {name} do not fit its shape and dtype"
            raise ValueError(msg)
        tensors[name] = TensorInfo(dtype, shape, end - start)
        position = end
    return tensors


def read_natural_number(value: Any) -> int:
    """Return a header's size or offset; raise ValueError unless it is an integer from 0 to `LARGEST`."""
    if type(value) is not int or not 0 <= value <= LARGEST:
        msg = f"{str(value)[:20]} is not an integer from 0"
        raise ValueError(msg)
    return value


def write_header(tensors: Mapping[str, TensorInfo]) -> bytes:
    """Return the length prefix and header of a file with these tensors in this order."""
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
    text += b" " * (-len(text) % 8)  # aligns the tensors
    return len(text).to_bytes(LENGTH_BYTES, "little") + text
