"""Reads tensors from the store: all of a file in order, or single ones by name."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import xxhash
from safetensors import safe_open

from services.merger.adapters.remote_folder import RemoteFolder
from services.merger.domain import FolderMetadata, TensorInfo, WeightsFile

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "F32": torch.float32,
    "I64": torch.int64,
    "F64": torch.float64,
}
RUN_BYTES = 16 * 1024 * 1024
Digests = dict[str, bytes]
"""XXH3 digests of tensors' bytes by name, computed while the SHA-256 of their file is verified.

They detect a second read that returns other bytes. They never leave the process, so they need not resist attacks, and
cost a tenth of SHA-256.
"""


def tensor_of(data: bytearray | memoryview, info: TensorInfo) -> torch.Tensor:
    """Return a tensor over bytes, without a copy."""
    dtype = DTYPES[info.dtype]
    if info.size_bytes == 0:
        return torch.empty(info.shape, dtype=dtype)
    return torch.frombuffer(data, dtype=dtype).reshape(info.shape)


def is_finite(tensor: torch.Tensor) -> bool:
    """Return whether all numbers are finite.

    NaN and infinity always appear as minimum or maximum, and `aminmax` takes 1/40 of the time of `isfinite`.
    """
    if tensor.numel() == 0:
        return True
    lowest, highest = torch.aminmax(tensor)
    return bool(torch.isfinite(lowest)) and bool(torch.isfinite(highest))


@dataclass(frozen=True)
class Part:
    """A whole tensor, or a flat run of elements of a large one.

    Valid until the next part is requested.
    """

    name: str
    tensor: torch.Tensor


@dataclass(frozen=True)
class Span:
    """A byte range of a tensor."""

    name: str
    start: int
    size_bytes: int


def stream_tensors(
    folder: RemoteFolder,
    file: WeightsFile,
    digests: Digests,
    is_needed_whole: Callable[[str], bool] = lambda _name: True,
) -> Iterator[Part]:
    """Yield a file's tensors in byte order, and add their digests to `digests`.

    Args:
        folder: The file's folder.
        file: The file's header.
        digests: Receives each tensor's digest.
        is_needed_whole: Returns whether a tensor must not be cut; others are cut at `RUN_BYTES`.

    Raises:
        Permanent: `digest_mismatch`, after the last tensor.
    """
    runs = plan_runs(file, is_needed_whole)
    lengths = [file.data_start, *(sum(span.size_bytes for span in run) for run in runs)]
    pieces = folder.stream(file.path, lengths)
    next(pieces)  # the header, read before
    hasher = xxhash.xxh3_128()
    for run in runs:
        piece, offset = next(pieces), 0
        for span in run:
            info, data = file.tensors[span.name], piece[offset : offset + span.size_bytes]
            hasher.update(data)
            if span.start + span.size_bytes == info.size_bytes:
                digests[span.name] = hasher.digest()
                hasher.reset()
            yield Part(span.name, tensor_of(data, part_of(info, span)))
            offset += span.size_bytes
    for _ in pieces:  # verifies the file's digest; there is no further piece
        raise AssertionError(file.path)


def part_of(info: TensorInfo, span: Span) -> TensorInfo:
    """Return dtype, shape and size of a part of a tensor."""
    if span.size_bytes == info.size_bytes:
        return info
    return TensorInfo(info.dtype, (span.size_bytes // DTYPES[info.dtype].itemsize,), span.size_bytes)


def plan_runs(file: WeightsFile, is_needed_whole: Callable[[str], bool]) -> list[list[Span]]:
    """Group a file's tensors into reads of about `RUN_BYTES`, because one read per small tensor is too slow.

    A larger tensor that is not needed whole is cut into several reads.
    """
    runs: list[list[Span]] = []
    size = RUN_BYTES
    for name, info in file.tensors.items():
        step = info.size_bytes if is_needed_whole(name) else RUN_BYTES
        for start in range(0, max(1, info.size_bytes), max(1, step)):
            span = Span(name, start, min(step, info.size_bytes - start))
            if size >= RUN_BYTES or span.size_bytes >= RUN_BYTES:
                runs.append([])
                size = 0
            runs[-1].append(span)
            size += span.size_bytes
    return runs


@dataclass(frozen=True)
class Replacements:
    """Checkpoint tensors that replace base tensors: `names` maps base names to names in `file`."""

    file: Path
    names: Mapping[str, str]

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def get(self, name: str) -> torch.Tensor | None:
        """Return the replacement of a base tensor; None if there is none."""
        if name not in self.names:
            return None
        with safe_open(str(self.file), framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(self.names[name])
            return tensor


class TensorReader:
    """Reads single tensors as float32 and verifies each against its digest from the verified read of its file."""

    def __init__(
        self, folder: RemoteFolder, metadata: FolderMetadata, digests: Digests, replacements: Replacements | None = None
    ) -> None:
        self._folder = folder
        self._digests = digests
        self._replacements = replacements
        self._locations: dict[str, tuple[str, int, TensorInfo]] = {}
        for file in metadata.weights:
            start = file.data_start
            for name, info in file.tensors.items():
                self._locations[name] = (file.path, start, info)
                start += info.size_bytes
        self.unread = set(self._locations)

    def __contains__(self, name: str) -> bool:
        return name in self._locations

    def load(self, name: str) -> torch.Tensor:
        """Return a tensor; floating point is converted to float32.

        Raises:
            ArithmeticError: The bytes differ from the verified read.
        """
        replacement = None if self._replacements is None else self._replacements.get(name)
        if replacement is not None:
            return replacement.float()
        path, start, info = self._locations[name]
        is_floating = DTYPES[info.dtype].is_floating_point
        out = torch.empty(info.shape, dtype=torch.float32 if is_floating else DTYPES[info.dtype])
        flat, hasher, done = out.view(-1), xxhash.xxh3_128(), 0
        width = DTYPES[info.dtype].itemsize
        while done < info.size_bytes:
            length = min(RUN_BYTES, info.size_bytes - done)
            piece = self._folder.read(path, start + done, length)
            hasher.update(piece)
            flat[done // width : (done + length) // width].copy_(torch.frombuffer(piece, dtype=DTYPES[info.dtype]))
            done += length
        if hasher.digest() != self._digests[name]:
            msg = f"the store returned other bytes of {name} than before"
            raise ArithmeticError(msg)
        self.unread.discard(name)
        return out
