"""Writes a merged model into the store shard by shard, with at most two shards and one float32 tensor in memory."""

import json
import math
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate, islice
from queue import SimpleQueue
from typing import Any, Protocol

import torch
import xxhash

from contracts.manifests import FileEntry
from services.merger.adapters.remote_folder import RemoteFolder
from services.merger.adapters.safetensors_header import write_header
from services.merger.adapters.tensors import DTYPES, Digests, Span, is_finite, part_of, stream_tensors, tensor_of
from services.merger.domain import (
    FLOATING_DTYPES,
    WEIGHTS_INDEX,
    FolderMetadata,
    SaveDtype,
    TensorInfo,
    plan_shard_limit,
    plan_shards,
    shard_name,
    without,
)
from services.merger.ports import Blobs

SAVED: dict[SaveDtype, str] = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
Progress = Callable[[int, int], None]


class TensorMerge(Protocol):
    """Merges the base's tensors, one at a time."""

    def changes(self, name: str) -> bool:
        """Return whether a tensor is merged and must be passed whole; others may come in parts."""

    def merge(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """Return the merged float32 tensor, or the same tensor if nothing changes it."""

    def unmerged(self) -> list[str]:
        """Return adapted tensors not merged yet."""


class UnchangedWeights:
    """Keeps full weights unchanged."""

    def changes(self, name: str) -> bool:  # noqa: ARG002 - the protocol's signature
        """Return False: no tensor is merged."""
        return False

    def merge(self, name: str, weight: torch.Tensor) -> torch.Tensor:  # noqa: ARG002 - the protocol's signature
        """Return the same tensor."""
        return weight

    def unmerged(self) -> list[str]:
        """Return an empty list: there is no adapter."""
        return []


class UnmergedModulesError(Exception):
    """The base has no tensor for a module that the adapter changes, so its training would be lost."""


class NonFiniteError(Exception):
    """A tensor holds NaN or infinity, possibly because values exceed the range of the saved dtype."""

    def __init__(self, name: str, dtype: SaveDtype) -> None:
        super().__init__(f"{name} is not finite as {dtype}")
        self.name = name


class Shard:
    """A safetensors file in memory; tensors are rounded directly into its buffer.

    Args:
        tensors: Its tensors, in order.
        buffer: At least `size_of` bytes.
    """

    def __init__(self, tensors: Mapping[str, TensorInfo], buffer: bytearray) -> None:
        header = write_header(tensors)
        self.buffer, self.data = buffer, memoryview(buffer)[: self.size_of(tensors)]
        self.data[: len(header)] = header
        self._position = len(header)
        self._tensors = tensors
        self._hasher = xxhash.xxh3_128()
        ends = accumulate((info.size_bytes for info in tensors.values()), initial=len(header))
        self._ends = dict(zip(tensors, islice(ends, 1, None), strict=True))

    @staticmethod
    def size_of(tensors: Mapping[str, TensorInfo]) -> int:
        """Return the file size in bytes, including the header."""
        return len(write_header(tensors)) + sum(info.size_bytes for info in tensors.values())

    @property
    def is_full(self) -> bool:
        """Return whether all tensors are written."""
        return self._position == len(self.data) and not self._ends

    def append(self, name: str, tensor: torch.Tensor, dtype: SaveDtype) -> bytes | None:
        """Round a tensor or its next part into the buffer; return the tensor's digest once complete.

        Raises:
            NonFiniteError: The result is not finite in the saved dtype.
            ValueError: There are more numbers than planned.
        """
        info = self._tensors[name]
        size = tensor.numel() * DTYPES[info.dtype].itemsize
        if self._position + size > self._ends[name]:
            msg = f"{tensor.numel()} numbers of {name} exceed its planned size"
            raise ValueError(msg)
        target = self.data[self._position : self._position + size]
        part = part_of(info, Span(name, 0, size))
        saved = tensor_of(target, part).copy_(tensor)
        if info.dtype in FLOATING_DTYPES and not is_finite(saved):
            raise NonFiniteError(name, dtype)
        self._hasher.update(target)
        self._position += size
        if self._position < self._ends[name]:
            return None
        del self._ends[name]
        digest = self._hasher.digest()
        self._hasher.reset()
        return digest


class ShardWriter:
    """Fills shards in order and uploads each while filling the next."""

    def __init__(self, store: Blobs, tensors: Mapping[str, TensorInfo], limit_bytes: int, dtype: SaveDtype) -> None:
        self._store, self._tensors, self._dtype = store, tensors, dtype
        sizes = [(name, info.size_bytes) for name, info in tensors.items()]
        self._plan = [{name: tensors[name] for name in names} for names in plan_shards(sizes, limit_bytes)]
        self._buffers: SimpleQueue[bytearray] = SimpleQueue()
        for first in range(min(2, len(self._plan))):  # one to fill, one to upload
            self._buffers.put(bytearray(max(Shard.size_of(shard) for shard in self._plan[first::2])))
        self._uploads = ThreadPoolExecutor(1, thread_name_prefix="upload")
        self._upload: Future[FileEntry] | None = None
        self._shard: Shard | None = None
        self._index: dict[str, str] = {}
        self._files: list[FileEntry] = []
        self.digests: Digests = {}

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Add the next tensor or its next part."""
        position = len(self._files) + (self._upload is not None)
        path = shard_name(position, len(self._plan))
        if self._shard is None:
            self._shard = Shard(self._plan[position], self._buffers.get())
        digest = self._shard.append(name, tensor, self._dtype)
        if digest is not None:
            self.digests[name] = digest
            self._index[name] = path
        if self._shard.is_full:
            self._wait()
            self._upload = self._uploads.submit(self._send, self._shard, path)
            self._shard = None

    def _send(self, shard: Shard, path: str) -> FileEntry:
        try:
            return self._store.put_blob(shard.data, path)
        finally:
            self._buffers.put(shard.buffer)

    def finish(self) -> list[FileEntry]:
        """Wait for all uploads; return all files, with an index if there are several shards."""
        self._wait()
        if len(self._files) < len(self._plan):
            raise AssertionError("some tensors were never added")
        self._uploads.shutdown()
        if len(self._files) > 1:
            total_bytes = sum(info.size_bytes for info in self._tensors.values())
            index = {"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(self._index.items()))}
            data = dump_json(index)
            self._files.append(self._store.put_blob(memoryview(data), WEIGHTS_INDEX))
        return self._files

    def _wait(self) -> None:
        if self._upload is not None:
            self._files.append(self._upload.result())
            self._upload = None


def write_merged(
    store: Blobs,
    source: RemoteFolder,
    metadata: FolderMetadata,
    *,
    merge: TensorMerge,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: SaveDtype,
    progress: Progress,
    ignored: Collection[str] = (),
) -> tuple[list[FileEntry], Digests, Digests]:
    """Write all tensors of `source`, merged and rounded once to `dtype`, into the store.

    Args:
        store: The store.
        source: Folder of the tensors; each file is read once, in order, and verified.
        metadata: Headers and configuration of `source`.
        merge: Returns the merged tensor for a tensor.
        shapes: Shapes in the merged model, where they differ from `source`.
        dtype: Dtype for floating-point tensors.
        progress: Called with tensors done and in total.
        ignored: Tensors not written; they are read, because files are verified as a whole.

    Returns:
        The files, and the digests of tensors read and written.

    Raises:
        UnmergedModulesError: The base lacks a tensor for an adapted module.
        NonFiniteError: A merged tensor holds NaN or infinity.
        Permanent: `digest_mismatch`; nothing written may be committed.
    """
    planned = {
        name: saved_as(info, shapes.get(name, info.shape), dtype)
        for name, info in without(metadata.tensors, ignored).items()
    }
    limit_bytes = plan_shard_limit(
        [metadata.sizes[file.path] for file in metadata.weights], sum(info.size_bytes for info in planned.values())
    )
    writer, read = ShardWriter(store, planned, limit_bytes, dtype), Digests()
    for file in metadata.weights:
        for part in stream_tensors(source, file, read, merge.changes):
            if part.name in planned:
                writer.add(part.name, merge.merge(part.name, part.tensor))
                progress(len(writer.digests), len(planned))
    if merge.unmerged():
        msg = f"{len(merge.unmerged())} adapted modules have no weights in the base: {merge.unmerged()[0]}"
        raise UnmergedModulesError(msg)
    return writer.finish(), read, writer.digests


def saved_as(info: TensorInfo, shape: tuple[int, ...], dtype: SaveDtype) -> TensorInfo:
    """Return dtype, shape and size of a saved tensor; only floating point changes its dtype."""
    kind = SAVED[dtype] if info.dtype in FLOATING_DTYPES else info.dtype
    return TensorInfo(kind, shape, math.prod(shape) * DTYPES[kind].itemsize)


def dump_json(value: Mapping[str, Any]) -> bytes:
    """Format JSON like `transformers`: indented, sorted, with a final newline."""
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()
