"""Uploads by signed URLs of the registry, until it has verified all files. Stored parts are not sent again."""

import asyncio
import functools
import hashlib
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import urllib3
import urllib3.exceptions

from clients.training.bus import Publisher
from clients.training.connection import Connection
from clients.training.errors import PublishError
from contracts.facts import BaseModelRef
from contracts.storage.sources import is_weights, pickles_in, travels
from contracts.storage.uploads import PART_BYTES, AnnouncedFile, UploadAnswer, UploadPermit, UploadRequest
from contracts.vocabulary import ArtifactRef

Progress = Callable[[int, int], None]
"""Called with the bytes done and the total."""

PARALLEL = 4
FRUITLESS_ROUNDS = 5
"""Maximum number of rounds in which nothing arrives."""
_BLOCK = 1 << 20


def checkpoint_files(folder: Path) -> list[Path]:
    """Return the files of a checkpoint to upload: weights as safetensors, configuration, tokenizer.

    Optimizer states, other pickles and model cards are left out.

    Raises:
        PublishError: The folder does not exist, or has no safetensors.
    """
    if not folder.is_dir():
        raise PublishError(f"The folder {folder} does not exist: name the folder that save_pretrained wrote.")
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    kept = [folder / name for name in names if travels(name)]
    if any(is_weights(path.name) for path in kept):
        return kept
    if pickles_in(names):
        raise PublishError(
            f"The folder {folder} holds its weights as a pickle, which is not accepted: save them as safetensors."
        )
    raise PublishError(f"The folder {folder} holds no safetensors: name the folder that save_pretrained wrote.")


def describe_file(path: Path) -> AnnouncedFile:
    """Return name, size and digests of a file; an unchanged file is not read again.

    Raises:
        PublishError: It cannot be read.
    """
    try:
        status = path.stat()
        digest, parts = _digests_of_file(path.absolute(), status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise PublishError(f"The file {path} cannot be read: {error}.") from error
    return AnnouncedFile(path=path.name, digest=digest, size_bytes=status.st_size, parts=parts)


@functools.lru_cache(maxsize=1024)
def _digests_of_file(path: Path, size: int, _modified_ns: int) -> tuple[str, tuple[str, ...]]:
    """Return the digest of a file, and the digests of its parts if it has several."""
    whole, parts = hashlib.sha256(), []
    with path.open("rb") as file:
        for _ in range(0, max(size, 1), PART_BYTES):
            part, left = hashlib.sha256(), PART_BYTES
            while left and (block := file.read(min(_BLOCK, left))):
                whole.update(block)
                part.update(block)
                left -= len(block)
            parts.append(f"sha256:{part.hexdigest()}")
    return f"sha256:{whole.hexdigest()}", tuple(parts) if size > PART_BYTES else ()


class Uploader:
    """Uploads the files of a training job."""

    def __init__(self, connection: Connection, model: str, publisher: Publisher) -> None:
        self._model = model
        self._publisher = publisher
        self._store = urllib3.PoolManager(
            ssl_context=connection.store_trust(),
            maxsize=PARALLEL,
            timeout=urllib3.Timeout(connect=30, read=300),
            retries=False,
        )

    async def find_base(self, name_and_revision: str) -> BaseModelRef:
        """Return an imported base model by `NAME` or `NAME@REVISION`; without a revision, the newest import.

        Raises:
            PublishError: it was not imported.
        """
        answer = await self._publisher.ask(self._model, UploadRequest(base=name_and_revision))
        if answer.base is None:
            raise PublishError("The registry names no base model: it is of another version than the client.")
        return answer.base

    async def put_folder(self, folder: Path, progress: "Progress | None") -> ArtifactRef:
        """Upload a checkpoint folder; the registry writes its manifest when it has verified all files."""
        paths = await asyncio.to_thread(checkpoint_files, folder)
        ref = (await self._put(paths, progress, folder=True)).folder
        if ref is None:
            raise PublishError("The registry names no folder: it is of another version than the client.")
        return ref

    async def put_file(self, path: Path) -> ArtifactRef:
        """Upload a single file: a calibration or evaluation set."""
        return (await self._put([path], None, folder=False)).files[0]

    async def _put(self, paths: Sequence[Path], progress: "Progress | None", *, folder: bool) -> UploadAnswer:
        announced = [await asyncio.to_thread(describe_file, path) for path in paths]
        paths_by_digest = {file.digest: path for file, path in zip(announced, paths)}
        total = sum(file.size_bytes for file in announced)
        request = UploadRequest(files=tuple(announced), folder=folder)
        fruitless, failure = 0, ""
        while True:
            answer = await self._publisher.ask(self._model, request)
            if answer.state == "stored":
                _Count(total, total, progress).add(0)
                return answer
            if answer.state == "missing":
                count = _Count(answer.stored_bytes, total, progress)
                failures = await asyncio.to_thread(self._send_all, answer.permits, paths_by_digest, count)
                fruitless = fruitless + 1 if len(failures) == len(answer.permits) else 0
                failure = failures[0] if failures else failure
                if fruitless == FRUITLESS_ROUNDS:
                    raise PublishError(f"The object store takes no upload: {failure}. Publish again when it does.")
            if answer.state == "verifying" or fruitless:
                await asyncio.sleep(0.2 if not fruitless else 2.0**fruitless / 4)

    def _send_all(
        self, permits: Sequence[UploadPermit], paths_by_digest: "dict[str, Path]", count: "_Count"
    ) -> "list[str]":
        """Send the permitted files or parts in parallel; return the failures' reasons."""

        def send(permit: UploadPermit) -> "str | None":
            return self._send(permit, paths_by_digest.get(permit.digest), count)

        with ThreadPoolExecutor(PARALLEL) as threads:
            return [failure for failure in threads.map(send, permits) if failure is not None]

    def _send(self, permit: UploadPermit, path: "Path | None", count: "_Count") -> "str | None":
        if path is None or not permit.url.startswith("https://"):
            return f"a permit for {permit.digest} at {permit.url[:60]!r} was not asked for, or is without TLS"
        try:
            with path.open("rb") as file:
                file.seek(permit.offset)
                headers = {**permit.headers, "Content-Length": str(permit.size_bytes)}
                body = _Slice(file, permit.size_bytes, count)
                response = self._store.request("PUT", permit.url, body=body, headers=headers)
        except (OSError, urllib3.exceptions.HTTPError) as error:
            return f"{path.name} could not be sent ({error})"
        # 412: another process has uploaded it meanwhile
        return None if response.status in (200, 412) else f"{path.name}: {response.status} {_code(response.data)}"


class _Count:
    """Adds up bytes that are sent by several threads."""

    def __init__(self, done: int, total: int, progress: "Progress | None") -> None:
        self._done, self._total, self._progress = done, total, progress
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self._done = min(self._done + count, self._total)
            if self._progress is not None:
                self._progress(self._done, self._total)


class _Slice:
    """A range of a file's bytes that counts the bytes read."""

    def __init__(self, file: BinaryIO, size: int, count: _Count) -> None:
        self._file, self._left, self._count = file, size, count

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(data)
        self._count.add(len(data))
        return data


def _code(body: bytes) -> str:
    """Return the code of an answer of the store, and its message."""
    texts = re.findall(r"<(?:Code|Message)>([^<]*)<", body.decode("utf-8", "replace"))
    return " ".join(texts)[:300] or "without an explanation"
