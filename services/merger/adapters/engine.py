"""The merge engine: runs each merge in a worker process, which can be killed and dies with the service."""

import hashlib
import importlib.metadata
import json
import re
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog

from contracts.facts import Parity
from contracts.manifests import FileEntry
from services.merger.adapters.channel import CHANNELS, PART_BYTES, Channel, ClosedError, describe
from services.merger.adapters.rendering import render_all
from services.merger.ports import MergeJob, MergeResult, Rendering
from shared.errors import Permanent, SlipwayError, translate
from shared.runtime.jobs import Worker
from shared.runtime.progress import ReportProgress
from shared.storage.blobs import Store

MOST_CONVERSATIONS = 100
GROWTH, ALLOWANCE_BYTES = 4, 2**30
"""A worker may store `GROWTH` times the bytes of its inputs (a byte becomes at most four), plus the allowance."""
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@contextmanager
def served(store: Store, job: MergeJob) -> Iterator[tuple["StoreServer", list[int]]]:
    """Serve a worker's store requests in a context; yield the server and the worker's descriptors."""
    pairs = [socket.socketpair() for _ in range(CHANNELS)]
    server = StoreServer(store, job)
    threads = [threading.Thread(target=server.serve, args=(Channel(ours),), daemon=True) for ours, _ in pairs]
    for thread in threads:
        thread.start()
    try:
        yield server, [theirs.fileno() for _, theirs in pairs]
    finally:
        for ours, theirs in pairs:  # a thread still in a store call ends after it and drops the last reference
            theirs.close()
            Channel(ours).close()


class StoreServer:
    """Answers a worker's store requests, with one thread per channel."""

    def __init__(self, store: Store, job: MergeJob) -> None:
        self._store = store
        folders = (job.base, job.checkpoint)
        self._readable = {(file.digest, folder.prefix): file for folder in folders for file in folder.files}
        self._stored: dict[str, int] = {}
        self._left_bytes = GROWTH * sum(file.size_bytes for file in self._readable.values()) + ALLOWANCE_BYTES
        self._lock = threading.Lock()

    def check_results(self, files: Iterable[FileEntry]) -> None:
        """Raise Permanent `engine_failed` unless the worker stored all these files during this job."""
        with self._lock:
            for file in files:
                if self._stored.get(file.digest) != file.size_bytes:
                    raise Permanent("engine_failed", f"The worker reported {file.path}, which it has not stored.")

    def serve(self, channel: Channel) -> None:
        """Answer requests until the worker ends or sends an invalid request."""
        try:
            while True:
                self._answer(channel, channel.receive())
        except ClosedError:
            return
        except Exception as error:  # noqa: BLE001 - the worker parses foreign files, so it may send anything
            structlog.get_logger().error("a merge worker sent an invalid request", error=repr(error))
            channel.close()
        finally:
            channel.release()

    def _answer(self, channel: Channel, request: dict[str, Any]) -> None:
        try:
            if "read" in request:
                data = self._read(**request["read"])
                channel.send({}, data)
            elif "put" in request:
                self._put(channel, **request["put"])
            else:
                channel.send({"texts": self._render(**request["render"])})
        except ClosedError:
            raise
        except SlipwayError as error:
            channel.send({"error": describe(error)})
        except Exception as error:
            known = translate(error)
            if known is None:
                raise
            channel.send({"error": describe(known)})

    def _read(self, digest: str, prefix: str, start: int, length: int) -> memoryview:
        file = self._readable.get((digest, prefix))
        if file is None:
            raise Permanent("artifact_not_found", f"{digest} is not a file of this job.")
        if not (0 < length <= PART_BYTES and 0 <= start <= file.size_bytes - length):
            raise Permanent("internal_error", f"{length} bytes from {start} on are not a part of {digest}.")
        out = memoryview(bytearray(length))
        self._store.read_into(file, start, out, prefix)
        return out

    def _put(self, channel: Channel, digest: str, size_bytes: int) -> None:
        """Store a blob from the parts that follow; it becomes visible only if they match the announced digest."""
        if not _DIGEST.fullmatch(digest) or size_bytes < 0:
            raise Permanent("internal_error", f"{digest[:80]} is not a digest.")
        file = FileEntry(path="blob", digest=digest, size_bytes=size_bytes)
        stored = self._store.has_blob(file)
        asked = not (stored and self._has(file))
        if asked:
            self._take(size_bytes)
        else:
            self._record(file)
        channel.send({"absent": asked})
        if asked:
            upload = _Upload(channel, file)
            try:
                if stored:  # knowing only a digest must not give read access to the blob
                    for _part in upload.parts():
                        pass
                else:
                    self._store.put_stream(file, upload.parts())
            except ClosedError:
                raise
            except Exception:
                upload.await_question()
                raise
            self._record(file)  # before the answer, because other channels may read the blob afterwards
            channel.send({})

    def _record(self, file: FileEntry) -> None:
        with self._lock:
            self._stored[file.digest] = file.size_bytes
            self._readable[(file.digest, "")] = file

    def _has(self, file: FileEntry) -> bool:
        """Return whether the worker has had a blob's bytes: as an input of the job, or by sending them."""
        with self._lock:
            known = list(self._readable.values())
        return any((blob.digest, blob.size_bytes) == (file.digest, file.size_bytes) for blob in known)

    def _take(self, size_bytes: int) -> None:
        with self._lock:
            if size_bytes > self._left_bytes:
                raise Permanent("too_large", f"The worker sends {size_bytes} bytes; {self._left_bytes} are left to it.")
            self._left_bytes -= size_bytes

    def _render(
        self, template: str, variables: dict[str, Any], conversations: list[list[dict[str, str]]], now: str
    ) -> list[str]:
        if len(conversations) > MOST_CONVERSATIONS:
            raise Permanent("internal_error", f"{len(conversations)} conversations; the limit is {MOST_CONVERSATIONS}.")
        return render_all(template, variables, conversations, datetime.fromisoformat(now))


class _Upload:
    """The parts of a blob that a worker sends. Each gets an answer on arrival; the caller answers the last message."""

    def __init__(self, channel: Channel, file: FileEntry) -> None:
        self._channel, self._file, self._answered = channel, file, True

    def parts(self) -> Iterator[memoryview]:
        """Yield the parts; raise at the end if they differ from the announcement, so that the upload fails."""
        hasher, left = hashlib.sha256(), self._file.size_bytes
        while self._receive() or left:
            if self._length != min(PART_BYTES, left):
                raise Permanent("internal_error", f"A part has {self._length} bytes, and {left} are missing.")
            part = memoryview(bytearray(self._length))
            self._channel.receive_into(part)
            hasher.update(part)
            left -= len(part)
            self._channel.send({})
            self._answered = True
            yield part
        digest = f"sha256:{hasher.hexdigest()}"
        if digest != self._file.digest:
            reason = f"The worker sent {digest} as {self._file.digest}."
            raise Permanent("digest_mismatch", reason, found=digest)

    def await_question(self) -> None:
        """Discard the pending part until the worker waits for an answer, so that it receives the error."""
        if self._answered and self._receive():
            for start in range(0, self._length, PART_BYTES):
                self._channel.receive_into(memoryview(bytearray(min(PART_BYTES, self._length - start))))

    def _receive(self) -> int:
        self._length = int(self._channel.receive()["bytes"])
        self._answered = False
        return self._length


LIBRARIES = ("accelerate", "peft", "safetensors", "torch", "transformers")
MODULE = "services.merger.adapters.worker"
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Keep freed memory for the next tensor, in one arena: new pages would cost more time than the merge itself.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(256 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    "OMP_WAIT_POLICY": "PASSIVE",  # busy-waiting threads would take cores from the store's server
}


class WorkerEngine:
    """Runs merges in worker processes (implements `ports.MergeEngine`)."""

    def __init__(
        self, store: Store, *, log_path: Path, threads: int | None, memory_limit_bytes: int | None, timeout_s: float
    ) -> None:
        self._store = store
        self._worker = Worker(
            module=MODULE,
            log_path=log_path,
            environment=ENVIRONMENT,
            threads=threads,
            memory_limit_bytes=memory_limit_bytes,
            timeout_s=timeout_s,
            at_timeout="Give the merger more cores (MERGER_THREADS) or more time (MERGER_TIMEOUT_S).",
        )

    def library_versions(self) -> dict[str, str]:
        """Return the versions, without build labels, of the libraries that determine a merge's bytes."""
        return {name: importlib.metadata.version(name).partition("+")[0] for name in LIBRARIES}

    async def merge(self, job: MergeJob, progress: ReportProgress) -> MergeResult:
        """Return the merged model, stored and verified but not committed (see `ports.MergeEngine`)."""
        path = job.scratch_dir / "job.json"
        path.write_text(dump_job(job), encoding="utf-8")
        with served(self._store, job) as (server, descriptors):
            arguments = [str(path), *map(str, descriptors)]
            result = await self._worker.run(arguments, progress, scratch=job.scratch_dir, descriptors=descriptors)
            merged = MergeResult(
                files=tuple(FileEntry.model_validate(file) for file in result["files"]),
                parity=Parity.model_validate(result["parity"]),
                tokenizer=result["tokenizer"],
                rendering=Rendering(**result["rendering"]),
                expected_rendering=Rendering(**result["expected_rendering"]),
                peak_rss_bytes=result["peak_rss_bytes"],
                quantised_base=result["quantised_base"],
            )
            server.check_results(merged.files)
        return merged


def dump_job(job: MergeJob) -> str:
    """Convert a job to JSON for a file, because lists of files are too long for a command line."""

    def to_json(value: Any) -> Any:
        return str(value) if isinstance(value, Path) else value.model_dump(mode="json")

    return json.dumps(asdict(job), default=to_json)
