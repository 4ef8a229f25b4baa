"""Writes a merged model shard by shard into the store: two shards and one float32 tensor in memory, never more."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import torch

from contracts.manifests import FileEntry
from services.merger.adapters.safetensors_header import write_header
from services.merger.adapters.shelf import Shelf
from services.merger.adapters.tensors import DTYPES, Digests, stream_tensors, tensor_of
from services.merger.domain import FolderFacts, SaveDtype, TensorInfo, plan_shard_limit, plan_shards, shard_name
from shared.blobs import Store

SAVED: dict[SaveDtype, str] = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
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


class NonFiniteError(Exception):
    """A tensor holds NaN or infinity, perhaps only since the saved dtype cannot hold its numbers."""

    def __init__(self, name: str, dtype: SaveDtype) -> None:
        super().__init__(f"{name} is not finite as {dtype}")
        self.name = name


class Shard:
    """One file in memory, from its header to its last byte; tensors are rounded right into their place."""

    def __init__(self, tensors: Mapping[str, TensorInfo]) -> None:
        header = write_header(tensors)
        self.data = bytearray(len(header) + sum(info.size_bytes for info in tensors.values()))
        self.data[: len(header)] = header
        self._at = len(header)
        self._tensors = tensors
        self.waiting = set(tensors)

    def place(self, name: str, tensor: torch.Tensor, dtype: SaveDtype) -> bytes:
        """Round a tensor once to the saved dtype, at its place; give the digest of its bytes.

        Raises:
            NonFiniteError: it is not finite there.
        """
        info = self._tensors[name]
        place = memoryview(self.data)[self._at : self._at + info.size_bytes]
        self._at += info.size_bytes
        self.waiting.remove(name)
        saved = tensor_of(place, info).copy_(tensor)
        if info.dtype in FLOATING and not is_finite(saved):
            raise NonFiniteError(name, dtype)
        return hashlib.sha256(place).digest()


def is_finite(tensor: torch.Tensor) -> bool:
    """Say whether every number is finite: NaN and infinity reach the extremes, for a fortieth of `isfinite`'s time."""
    if tensor.numel() == 0:
        return True
    lowest, highest = torch.aminmax(tensor)
    return bool(torch.isfinite(lowest)) and bool(torch.isfinite(highest))


class ShardWriter:
    """Fills shards in order, and uploads each while the next one is filled."""

    def __init__(self, store: Store, tensors: Mapping[str, TensorInfo], limit_bytes: int, dtype: SaveDtype) -> None:
        self._store, self._tensors, self._dtype = store, tensors, dtype
        sizes = [(name, info.size_bytes) for name, info in tensors.items()]
        self._plan = plan_shards(sizes, limit_bytes)
        self._uploads = ThreadPoolExecutor(1, thread_name_prefix="upload")
        self._sending: Future[FileEntry] | None = None
        self._shard: Shard | None = None
        self._index: dict[str, str] = {}
        self._files: list[FileEntry] = []
        self.digests: Digests = {}

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Place the next tensor."""
        position = len(self._files) + (self._sending is not None)
        path = shard_name(position, len(self._plan))
        if self._shard is None:
            self._shard = Shard({one: self._tensors[one] for one in self._plan[position]})
        self.digests[name] = self._shard.place(name, tensor, self._dtype)
        self._index[name] = path
        if not self._shard.waiting:
            self._wait()
            self._sending = self._uploads.submit(self._store.put_blob, memoryview(self._shard.data), path)
            self._shard = None

    def finish(self) -> list[FileEntry]:
        """Wait until everything is stored; give all files, with the index that several shards need."""
        self._wait()
        self._uploads.shutdown()
        if len(self._files) > 1:
            total_bytes = sum(info.size_bytes for info in self._tensors.values())
            index = {"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(self._index.items()))}
            data = dump_json(index)
            self._files.append(self._store.put_blob(memoryview(data), "model.safetensors.index.json"))
        return self._files

    def _wait(self) -> None:
        if self._sending is not None:
            self._files.append(self._sending.result())
            self._sending = None


def write_merged(
    store: Store, source: Shelf, facts: FolderFacts, *, merge: TensorMerge, shapes: Mapping[str, tuple[int, ...]],
    dtype: SaveDtype, progress: Progress,
) -> tuple[list[FileEntry], Digests, Digests]:  # fmt: skip
    """Write every tensor of `source`, merged and rounded once to `dtype`, into the store.

    Args:
        store: Where the shards go.
        source: Where the tensors come from; each of its files is read once, in order, and verified.
        facts: What `source` holds.
        merge: Gives the merged tensor for each of them.
        shapes: Shapes in the merged model, where they differ from the source's.
        dtype: What floating point is rounded to.
        progress: Told tensors done and in all.

    Returns:
        The files, and the digests of the tensors that were read and of those that were written.

    Raises:
        LeftOverError: an adapted module was never met.
        NonFiniteError: a merged tensor holds NaN or infinity.
        Permanent: `digest_mismatch`; nothing that was written may be committed.
    """
    planned = {name: saved_as(info, shapes.get(name, info.shape), dtype) for name, info in facts.tensors.items()}
    limit_bytes = plan_shard_limit(
        [facts.sizes[file.path] for file in facts.weights], sum(info.size_bytes for info in planned.values())
    )
    writer, read = ShardWriter(store, planned, limit_bytes, dtype), Digests()
    for file in facts.weights:
        for name, tensor in stream_tensors(source, file, read):
            writer.add(name, merge.merge(name, tensor))
            progress(len(read), len(planned))
    if merge.left_over():
        msg = f"{len(merge.left_over())} adapted modules have no weights in the base: {merge.left_over()[0]}"
        raise LeftOverError(msg)
    return writer.finish(), read, writer.digests


def saved_as(info: TensorInfo, shape: tuple[int, ...], dtype: SaveDtype) -> TensorInfo:
    """Give what a tensor will be once saved; only floating point changes its width."""
    kind = SAVED[dtype] if info.dtype in FLOATING else info.dtype
    return TensorInfo(kind, shape, math.prod(shape) * DTYPES[kind].itemsize)


def dump_json(value: Mapping[str, Any]) -> bytes:
    """Write JSON as `transformers` does: indented, sorted, with a last newline."""
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()
