"""Writes a merged model shard by shard into the store: two shards and one float32 tensor in memory, never more."""

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
from services.merger.adapters.remote_folder import Shelf
from services.merger.adapters.safetensors_header import write_header
from services.merger.adapters.tensors import DTYPES, Digests, Span, is_finite, part_of, stream_tensors, tensor_of
from services.merger.domain import (
    FLOATING_DTYPES,
    WEIGHTS_INDEX,
    FolderFacts,
    SaveDtype,
    TensorInfo,
    plan_shard_limit,
    plan_shards,
    shard_name,
    without,
)
from shared.storage.blobs import Store

SAVED: dict[SaveDtype, str] = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
Progress = Callable[[int, int], None]


class TensorMerge(Protocol):
    """Gives the merged tensor for one tensor of the base."""

    def changes(self, name: str) -> bool:
        """Return whether a tensor must be merged as a whole; others may come in parts."""
        ...

    def merge(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """Merge one tensor in float32, or give it back unchanged."""
        ...

    def left_over(self) -> list[str]:
        """Name what was not merged although it should have been."""
        ...


class NoMerge:
    """Full weights: every tensor is already what it must be."""

    def changes(self, name: str) -> bool:  # noqa: ARG002 - the protocol's signature
        """Nothing is changed."""
        return False

    def merge(self, name: str, weight: torch.Tensor) -> torch.Tensor:  # noqa: ARG002 - the protocol's signature
        """Return the tensor back."""
        return weight

    def left_over(self) -> list[str]:
        """Nothing is ever left over."""
        return []


class LeftOverError(Exception):
    """A module that the adapter changes has no tensor in the base: its training would be lost."""


class NonFiniteError(Exception):
    """A tensor holds NaN or infinity, perhaps only since the saved dtype cannot hold its numbers."""

    def __init__(self, name: str, dtype: SaveDtype) -> None:
        super().__init__(f"{name} is not finite as {dtype}")
        self.name = name


class Shard:
    """One file in memory, from its header to its last byte; tensors are rounded right into their place.

    Args:
        tensors: What it will hold, in this order.
        room: Where; at least `size_of` bytes.
    """

    def __init__(self, tensors: Mapping[str, TensorInfo], room: bytearray) -> None:
        header = write_header(tensors)
        self.room, self.data = room, memoryview(room)[: self.size_of(tensors)]
        self.data[: len(header)] = header
        self._at = len(header)
        self._tensors = tensors
        self._hasher = xxhash.xxh3_128()
        ends = accumulate((info.size_bytes for info in tensors.values()), initial=len(header))
        self._ends = dict(zip(tensors, islice(ends, 1, None), strict=True))

    @staticmethod
    def size_of(tensors: Mapping[str, TensorInfo]) -> int:
        """Return the size of the file in bytes."""
        return len(write_header(tensors)) + sum(info.size_bytes for info in tensors.values())

    @property
    def is_full(self) -> bool:
        """Everything is at its place."""
        return self._at == len(self.data) and not self._ends

    def place(self, name: str, tensor: torch.Tensor, dtype: SaveDtype) -> bytes | None:
        """Round a tensor, or its next part, once to the saved dtype, at its place; give its digest once it is whole.

        Raises:
            NonFiniteError: it is not finite there.
            ValueError: it has more numbers than there is room for.
        """
        info = self._tensors[name]
        size = tensor.numel() * DTYPES[info.dtype].itemsize
        if self._at + size > self._ends[name]:
            msg = f"there is no room for {tensor.numel()} numbers of {name}"
            raise ValueError(msg)
        place = self.data[self._at : self._at + size]
        part = part_of(info, Span(name, 0, size))
        saved = tensor_of(place, part).copy_(tensor)
        if info.dtype in FLOATING_DTYPES and not is_finite(saved):
            raise NonFiniteError(name, dtype)
        self._hasher.update(place)
        self._at += size
        if self._at < self._ends[name]:
            return None
        del self._ends[name]
        digest = self._hasher.digest()
        self._hasher.reset()
        return digest


class ShardWriter:
    """Fills shards in order, and uploads each while the next one is filled."""

    def __init__(self, store: Store, tensors: Mapping[str, TensorInfo], limit_bytes: int, dtype: SaveDtype) -> None:
        self._store, self._tensors, self._dtype = store, tensors, dtype
        sizes = [(name, info.size_bytes) for name, info in tensors.items()]
        self._plan = [{name: tensors[name] for name in names} for names in plan_shards(sizes, limit_bytes)]
        self._rooms: SimpleQueue[bytearray] = SimpleQueue()
        for first in range(min(2, len(self._plan))):  # one is filled while the other is sent, so shards take turns
            self._rooms.put(bytearray(max(Shard.size_of(shard) for shard in self._plan[first::2])))
        self._uploads = ThreadPoolExecutor(1, thread_name_prefix="upload")
        self._sending: Future[FileEntry] | None = None
        self._shard: Shard | None = None
        self._index: dict[str, str] = {}
        self._files: list[FileEntry] = []
        self.digests: Digests = {}

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Place the next tensor, or its next part."""
        position = len(self._files) + (self._sending is not None)
        path = shard_name(position, len(self._plan))
        if self._shard is None:
            self._shard = Shard(self._plan[position], self._rooms.get())
        digest = self._shard.place(name, tensor, self._dtype)
        if digest is not None:
            self.digests[name] = digest
            self._index[name] = path
        if self._shard.is_full:
            self._wait()
            self._sending = self._uploads.submit(self._send, self._shard, path)
            self._shard = None

    def _send(self, shard: Shard, path: str) -> FileEntry:
        try:
            return self._store.put_blob(shard.data, path)
        finally:
            self._rooms.put(shard.room)

    def finish(self) -> list[FileEntry]:
        """Wait until everything is stored; give all files, with the index that several shards need."""
        self._wait()
        if len(self._files) < len(self._plan):
            raise AssertionError("some tensors were never placed")
        self._uploads.shutdown()
        if len(self._files) > 1:
            total_bytes = sum(info.size_bytes for info in self._tensors.values())
            index = {"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(self._index.items()))}
            data = dump_json(index)
            self._files.append(self._store.put_blob(memoryview(data), WEIGHTS_INDEX))
        return self._files

    def _wait(self) -> None:
        if self._sending is not None:
            self._files.append(self._sending.result())
            self._sending = None


def write_merged(
    store: Store,
    source: Shelf,
    facts: FolderFacts,
    *,
    merge: TensorMerge,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: SaveDtype,
    progress: Progress,
    ignored: Collection[str] = (),
) -> tuple[list[FileEntry], Digests, Digests]:
    """Write every tensor of `source`, merged and rounded once to `dtype`, into the store.

    Args:
        store: Where the shards go.
        source: Where the tensors come from; each of its files is read once, in order, and verified.
        facts: What `source` holds.
        merge: Gives the merged tensor for each of them.
        shapes: Shapes in the merged model, where they differ from the source's.
        dtype: What floating point is rounded to.
        progress: Told tensors done and in all.
        ignored: Tensors that are read, since their file is verified as a whole, but not written.

    Returns:
        The files, and the digests of the tensors that were read and of those that were written.

    Raises:
        LeftOverError: an adapted module was never met.
        NonFiniteError: a merged tensor holds NaN or infinity.
        Permanent: `digest_mismatch`; nothing that was written may be committed.
    """
    planned = {
        name: saved_as(info, shapes.get(name, info.shape), dtype)
        for name, info in without(facts.tensors, ignored).items()
    }
    limit_bytes = plan_shard_limit(
        [facts.sizes[file.path] for file in facts.weights], sum(info.size_bytes for info in planned.values())
    )
    writer, read = ShardWriter(store, planned, limit_bytes, dtype), Digests()
    for file in facts.weights:
        for part in stream_tensors(source, file, read, merge.changes):
            if part.name in planned:
                writer.add(part.name, merge.merge(part.name, part.tensor))
                progress(len(writer.digests), len(planned))
    if merge.left_over():
        msg = f"{len(merge.left_over())} adapted modules have no weights in the base: {merge.left_over()[0]}"
        raise LeftOverError(msg)
    return writer.finish(), read, writer.digests


def saved_as(info: TensorInfo, shape: tuple[int, ...], dtype: SaveDtype) -> TensorInfo:
    """Return what a tensor will be once saved; only floating point changes its width."""
    kind = SAVED[dtype] if info.dtype in FLOATING_DTYPES else info.dtype
    return TensorInfo(kind, shape, math.prod(shape) * DTYPES[kind].itemsize)


def dump_json(value: Mapping[str, Any]) -> bytes:
    """Write JSON as `transformers` does: indented, sorted, with a last newline."""
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()
