"""The worker process: `python -m services.merger.adapters.worker JOB_FILE DESCRIPTOR…`, connected to the service.

It parses external files, so it has no credentials and no network: the service accesses the store for it. Checks without
torch run before torch is imported.
"""

import ctypes
import gc
import hashlib
import json
import mmap
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from contracts.facts import BaseModelRef
from contracts.manifests import FileEntry
from services.merger import domain
from services.merger.adapters.channel import PART_BYTES, Channel, ClosedError, raise_described
from services.merger.adapters.inputs import open_inputs
from services.merger.adapters.rendering import Render
from services.merger.ports import Blobs, Conversation, Folder, MergeJob
from shared.errors import Permanent, Transient
from shared.runtime.worker import confine, importing, job_main, step_progress


class StoreClient:
    """Reads and writes blobs through the service (implements `ports.Blobs`)."""

    def __init__(self, descriptors: Sequence[int]) -> None:
        self._free: SimpleQueue[Channel] = SimpleQueue()
        for descriptor in descriptors:
            self._free.put(Channel(socket.socket(fileno=descriptor)))
        self._readers = ThreadPoolExecutor(len(descriptors), thread_name_prefix="store")

    def read_into(self, file: FileEntry, start: int, out: memoryview, prefix: str = "") -> None:
        """Fill `out` with a part of a blob, not verified (see `Store.read_into`)."""
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
        """Upload bytes in memory as a blob, unless it exists (see `Store.put_blob`)."""
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
        """Upload a file as a blob, unless it exists."""
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
        """Download files into a folder; each is verified, then renamed into place (see `Store.fetch_files`)."""
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
        """Render conversations in the service's sandboxed child process (see `rendering.render_all`)."""
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


def work(arguments: list[str]) -> dict[str, Any]:
    """Run a job; return its result and the peak memory of this process."""
    job = parse_job(Path(arguments[0]).read_text(encoding="utf-8"))
    confine(write=[job.scratch_dir])
    store = StoreClient([int(descriptor) for descriptor in arguments[1:]])
    return {**merge(store, job, render=store.render), "peak_rss_bytes": peak_rss_bytes()}


def parse_job(text: str) -> MergeJob:
    """Parse a job written by `engine.dump_job`."""
    fields = json.loads(text)
    return MergeJob(
        kind=fields["kind"],
        base_ref=BaseModelRef.model_validate(fields["base_ref"]),
        hyperparameters=fields["hyperparameters"],
        base=parse_folder(fields["base"]),
        checkpoint=parse_folder(fields["checkpoint"]),
        scratch_dir=Path(fields["scratch_dir"]),
        dtype=fields["dtype"],
    )


def parse_folder(fields: dict[str, Any]) -> Folder:
    """Parse a folder of a job."""
    return Folder(fields["digest"], tuple(FileEntry.model_validate(file) for file in fields["files"]), fields["prefix"])


def peak_rss_bytes() -> int:
    """Return this process's peak memory in bytes, without its parent's."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024


def release_memory() -> None:
    """Return freed memory to the system; by default the allocator keeps it, because new pages cost time."""
    gc.collect()  # modules are in reference cycles
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)


def merge(store: Blobs, job: MergeJob, render: Render | None = None) -> dict[str, Any]:
    """Check the inputs, write the merged model into the store, verify it there, and return the result as JSON data.

    `render` renders chat templates; None uses a child process.
    """
    inputs = open_inputs(store, job, step_progress("download", "bytes"))

    with importing():
        from services.merger.adapters import tokenizers, torch_checks, torch_merge, verify

    tokenizers.render_by(render)

    checked = torch_checks.check(inputs)
    step_progress("check", "tensors")(len(inputs.checkpoint_metadata.tensors), len(inputs.checkpoint_metadata.tensors))
    written = torch_merge.write(store, inputs, checked, step_progress)
    release_memory()
    try:
        verification = verify.verify_stored(store, inputs, checked, written, step_progress("verify", "models"))
    except ArithmeticError as error:
        raise Permanent("parity_failed", f"Parity cannot be measured: {error}.") from error
    is_lora = job.kind == "lora"
    return {
        "quantised_base": (
            domain.quantised_base(inputs.checkpoint_metadata.config, job.hyperparameters) if is_lora else None
        ),
        "files": [file.model_dump(mode="json") for file in written.files],
        "parity": verification.parity.model_dump(mode="json"),
        "tokenizer": checked.tokenizer,
        "rendering": asdict(verification.rendering),
        "expected_rendering": asdict(checked.rendering),
    }


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    job_main(work)
