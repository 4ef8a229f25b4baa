"""The store as a merge worker sees it: without key and network, it lets the service read and write."""

import hashlib
import mmap
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from contracts.manifests import FileEntry
from services.merger.adapters.channel import PART_BYTES, Channel, ClosedError, raise_described
from services.merger.ports import Conversation
from shared.errors import Permanent, Transient


class StoreClient:
    """Reads and writes blobs through the service (implements `ports.Blobs`)."""

    def __init__(self, descriptors: Sequence[int]) -> None:
        self._free: SimpleQueue[Channel] = SimpleQueue()
        for descriptor in descriptors:
            self._free.put(Channel(socket.socket(fileno=descriptor)))
        self._readers = ThreadPoolExecutor(len(descriptors), thread_name_prefix="store")

    def read_into(self, file: FileEntry, start: int, out: memoryview, prefix: str = "") -> None:
        """Fill `out` with a part of a blob, which the caller verifies (see `Store.read_into`)."""
        starts = range(0, len(out), PART_BYTES)
        if len(starts) <= 1:
            self._read_part(file, start, out, prefix)
            return
        reads = [
            self._readers.submit(self._read_part, file, start + at, out[at : at + PART_BYTES], prefix) for at in starts
        ]
        for read in reads:
            read.result()

    def _read_part(self, file: FileEntry, start: int, out: memoryview, prefix: str) -> None:
        if not len(out):
            return
        with self._channel() as channel:
            request = {"digest": file.digest, "prefix": prefix, "start": start, "length": len(out)}
            channel.send({"read": request})
            _expect(channel)
            channel.receive_into(out)

    def put_blob(self, data: memoryview, name: str) -> FileEntry:
        """Upload what is in memory as a blob, unless it is there already (see `Store.put_blob`)."""
        entry = FileEntry(path=name, digest=f"sha256:{hashlib.sha256(data).hexdigest()}", size_bytes=len(data))
        with self._channel() as channel:
            channel.send({"put": {"digest": entry.digest, "size_bytes": entry.size_bytes}})
            if _expect(channel)["absent"]:
                for start in range(0, len(data), PART_BYTES):
                    channel.send({}, data[start : start + PART_BYTES])
                    _expect(channel)
                channel.send({})
                _expect(channel)
        return entry

    def put_file(self, path: Path, name: str) -> FileEntry:
        """Upload one file as a blob, unless it is there already."""
        with path.open("rb") as file:
            if path.stat().st_size == 0:
                return self.put_blob(memoryview(b""), name)
            return self.put_blob(memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)), name)

    def fetch_files(
        self,
        files: Sequence[FileEntry],
        destination: Path,
        prefix: str = "",
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Download files below a folder, each verified and then renamed into place (see `Store.fetch_files`)."""
        total, done = sum(file.size_bytes for file in files), 0
        buffer = memoryview(bytearray(min(PART_BYTES, max((file.size_bytes for file in files), default=0))))
        for file in files:
            path, hasher = destination / file.path, hashlib.sha256()
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".part-")
            with os.fdopen(descriptor, "wb") as out:
                for start in range(0, file.size_bytes, PART_BYTES):
                    part = buffer[: min(PART_BYTES, file.size_bytes - start)]
                    self._read_part(file, start, part, prefix)
                    hasher.update(part)
                    out.write(part)
                    done += len(part)
                    if progress is not None:
                        progress(done, total)
            digest = f"sha256:{hasher.hexdigest()}"
            if digest != file.digest:
                reason = f"{file.path} is {digest}, announced as {file.digest}."
                raise Permanent("digest_mismatch", reason, digest=digest)
            Path(temporary).replace(path)

    def render(
        self, template: str, variables: Mapping[str, Any], conversations: Sequence[Conversation], now: datetime
    ) -> list[str]:
        """Return conversations rendered by the service's sandboxed child process (see `rendering.render_all`)."""
        with self._channel() as channel:
            request = {
                "template": template,
                "variables": dict(variables),
                "conversations": [[dict(turn) for turn in turns] for turns in conversations],
                "now": now.isoformat(),
            }
            channel.send({"render": request})
            texts: list[str] = _expect(channel)["texts"]
            return texts

    @contextmanager
    def _channel(self) -> Iterator[Channel]:
        channel = self._free.get()
        try:
            yield channel
        except ClosedError as error:
            raise Transient("internal_error", "The service closed the connection to its merge worker.") from error
        finally:
            self._free.put(channel)


def _expect(channel: Channel) -> dict[str, Any]:
    answer = channel.receive()
    if "error" in answer:
        raise_described(answer["error"])
    return answer
