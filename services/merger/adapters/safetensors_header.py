"""Reads what a folder of safetensors holds, without torch and without reading a weight.

The format: 8 bytes little-endian length, a JSON header of that length, then the bytes of the tensors.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.merger.domain import FolderFacts, TensorInfo, WeightsFile

LENGTH_BYTES = 8
HEADER_LIMIT_BYTES = 100_000_000
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
}  # fmt: skip


def read_folder(folder: Path) -> FolderFacts:
    """Describe a model or adapter folder: sizes, safetensors headers, configuration."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    weights = tuple(read_weights(folder, name) for name in sizes if name.endswith(".safetensors"))
    return FolderFacts(sizes, weights, read_config(folder))


def read_config(folder: Path) -> dict[str, Any] | None:
    """Read `adapter_config.json` or `config.json`; None where neither holds a JSON object."""
    for name in ("adapter_config.json", "config.json"):
        path = folder / name
        if path.is_file():
            try:
                config = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:
                return None
            return config if isinstance(config, dict) else None
    return None


def read_weights(folder: Path, name: str) -> WeightsFile:
    """Read the header of one file, and check that the file is as long as it says."""
    path = folder / name
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if size < LENGTH_BYTES or not 0 < length <= min(size - LENGTH_BYTES, HEADER_LIMIT_BYTES):
            return WeightsFile(name, {}, f"the file of {size} bytes ends before its header does")
        try:
            header = json.loads(file.read(length))
            tensors = read_tensors(header)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return WeightsFile(name, {}, f"the header is not that of a safetensors file ({error})")
    expected = LENGTH_BYTES + length + sum(info.size_bytes for info in tensors.values())
    if size != expected:
        return WeightsFile(name, tensors, f"the file has {size} bytes, its header promises {expected}")
    return WeightsFile(name, tensors)


def read_tensors(header: Mapping[str, Any]) -> dict[str, TensorInfo]:
    """Read the entries of a header, in the order of their bytes.

    Raises:
        ValueError: an entry contradicts itself, or the entries do not follow each other without a gap.
    """
    entries = [(name, entry) for name, entry in header.items() if name != "__metadata__"]
    entries.sort(key=lambda item: int(item[1]["data_offsets"][0]))
    tensors: dict[str, TensorInfo] = {}
    position = 0
    for name, entry in entries:
        start, end = entry["data_offsets"]
        shape = tuple(int(extent) for extent in entry["shape"])
        if start != position or end - start != math.prod(shape) * BITS[entry["dtype"]] // 8:
            msg = f"offsets of {name}"
            raise ValueError(msg)
        tensors[name] = TensorInfo(str(entry["dtype"]), shape, end - start)
        position = end
    return tensors
