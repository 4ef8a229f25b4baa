"""Tensors out of the store: a file at a time in order, or one by its name."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from services.merger.adapters.shelf import Shelf
from services.merger.domain import FolderFacts, TensorInfo, WeightsFile

DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "F16": torch.float16,
    "BF16": torch.bfloat16, "I32": torch.int32, "F32": torch.float32, "I64": torch.int64, "F64": torch.float64,
}  # fmt: skip
RUN_BYTES = 16 * 1024 * 1024
Digests = dict[str, bytes]
"""SHA-256 of the bytes of each tensor, taken while the digest of its whole file was verified."""


def tensor_of(data: bytearray | memoryview, info: TensorInfo) -> torch.Tensor:
    """See bytes as a tensor, without a copy."""
    dtype = DTYPES[info.dtype]
    if info.size_bytes == 0:
        return torch.empty(info.shape, dtype=dtype)
    return torch.frombuffer(data, dtype=dtype).reshape(info.shape)


def stream_tensors(shelf: Shelf, file: WeightsFile, digests: Digests) -> Iterator[tuple[str, torch.Tensor]]:
    """Give every tensor of a file in the order of its bytes, and note their digests.

    A tensor is only good until the next one is asked for.

    Raises:
        Permanent: `digest_mismatch`, after the last tensor.
    """
    runs = plan_runs(file)
    lengths = [file.data_start, *(sum(file.tensors[name].size_bytes for name in run) for run in runs)]
    pieces = shelf.stream(file.path, lengths)
    next(pieces)  # the header, which was read before
    for run in runs:
        piece, start = next(pieces), 0
        for name in run:
            info = file.tensors[name]
            data = memoryview(piece)[start : start + info.size_bytes]
            digests[name] = hashlib.sha256(data).digest()
            yield name, tensor_of(data, info)
            start += info.size_bytes
            del data
        del piece
    for _ in pieces:  # there is none: this is where the digest is held against the manifest
        raise AssertionError(file.path)


def plan_runs(file: WeightsFile) -> list[list[str]]:
    """Group the tensors of a file into reads of about `RUN_BYTES`: a read for each small tensor would take too long."""
    runs: list[list[str]] = []
    size = RUN_BYTES
    for name, info in file.tensors.items():
        if size >= RUN_BYTES or info.size_bytes >= RUN_BYTES:
            runs.append([])
            size = 0
        runs[-1].append(name)
        size += info.size_bytes
    return runs


@dataclass(frozen=True)
class Replacements:
    """Tensors that a checkpoint brings along in place of the base's: names of the base to names in its own file."""

    file: Path
    names: Mapping[str, str]

    def get(self, name: str) -> torch.Tensor | None:
        """Give the tensor that takes the place of the base's `name`."""
        if name not in self.names:
            return None
        with safe_open(str(self.file), framework="pt") as opened:
            tensor: torch.Tensor = opened.get_tensor(self.names[name])
            return tensor


class TensorReader:
    """Reads single tensors as float32, each verified against the digest that was noted when its file was."""

    def __init__(
        self, shelf: Shelf, facts: FolderFacts, digests: Digests, replacements: Replacements | None = None
    ) -> None:
        self._shelf = shelf
        self._digests = digests
        self._replacements = replacements
        self._where: dict[str, tuple[str, int, TensorInfo]] = {}
        for file in facts.weights:
            start = file.data_start
            for name, info in file.tensors.items():
                self._where[name] = (file.path, start, info)
                start += info.size_bytes
        self.unread = set(self._where)

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def load(self, name: str) -> torch.Tensor:
        """Read a tensor; floating point comes as float32.

        Raises:
            ArithmeticError: its bytes are not those that were seen when its file was verified.
        """
        brought = None if self._replacements is None else self._replacements.get(name)
        if brought is not None:
            return brought.float()
        path, start, info = self._where[name]
        is_floating = DTYPES[info.dtype].is_floating_point
        out = torch.empty(info.shape, dtype=torch.float32 if is_floating else DTYPES[info.dtype])
        flat, hasher, done = out.view(-1), hashlib.sha256(), 0
        width = DTYPES[info.dtype].itemsize
        while done < info.size_bytes:
            length = min(RUN_BYTES, info.size_bytes - done)
            piece = self._shelf.read(path, start + done, length)
            hasher.update(piece)
            flat[done // width : (done + length) // width].copy_(torch.frombuffer(piece, dtype=DTYPES[info.dtype]))
            done += length
        if hasher.digest() != self._digests[name]:
            msg = f"{name} came back from the store with other bytes"
            raise ArithmeticError(msg)
        self.unread.discard(name)
        return out
