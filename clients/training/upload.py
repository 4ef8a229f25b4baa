"""Upload a checkpoint folder: blobs named by their digest, then the manifest that lists them.

Uploading the same folder again transfers nothing: a blob that is stored under its digest is complete.
"""

import functools
import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import urllib3.exceptions
from minio import Minio
from minio.error import MinioException, S3Error

from clients.training.connection import Connection
from clients.training.errors import PublishError
from contracts.manifests import BaseManifest, FileEntry, FolderManifest
from contracts.sources import is_weights, pickles_in, travels
from contracts.vocabulary import ArtifactRef, digest_of

Progress = Callable[[int, int], None]
"""Called with the bytes done and the total."""

PART_BYTES = 64 * 1024 * 1024


def checkpoint_files(folder: Path) -> list[Path]:
    """Return the files of a checkpoint that are uploaded: weights as safetensors, configuration, tokenizer.

    Optimizer states, other pickles of a Trainer, and model cards are not uploaded.

    Raises:
        PublishError: the folder does not exist, or holds no safetensors.
    """
    if not folder.is_dir():
        raise PublishError(
            f"The checkpoint folder {folder} does not exist: name the folder that save_pretrained wrote."
        )
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    kept = [folder / name for name in names if travels(name)]
    if any(is_weights(path.name) for path in kept):
        return kept
    if pickles_in(names):
        raise PublishError(
            f"The checkpoint folder {folder} holds its weights as a pickle, which is not accepted: "
            "save them as safetensors."
        )
    raise PublishError(
        f"The checkpoint folder {folder} holds no safetensors: name the folder that save_pretrained wrote."
    )


def describe_folder(folder: Path) -> FolderManifest:
    """Return the manifest of a checkpoint folder: its files that are uploaded, with their digests.

    Raises:
        PublishError: as `checkpoint_files`, or a file cannot be read.
    """
    return FolderManifest(files=tuple(describe_file(path) for path in checkpoint_files(folder)))


def describe_file(path: Path) -> FileEntry:
    """Return name, digest and size of a file; a file that did not change is not read again.

    Raises:
        PublishError: It cannot be read.
    """
    try:
        status = path.stat()
        digest = _digest_of_file(path.absolute(), status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise PublishError(f"The file {path} cannot be read: {error}.") from error
    return FileEntry(path=path.name, digest=digest, size_bytes=status.st_size)


@functools.lru_cache(maxsize=1024)
def _digest_of_file(path: Path, _size: int, _modified_ns: int) -> str:
    hashed = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            hashed.update(block)
    return f"sha256:{hashed.hexdigest()}"


class Uploader:
    """Uploads the files of one model's training job to the object store."""

    def __init__(self, connection: Connection, model: str) -> None:
        self._bucket = connection.s3_bucket
        self._prefix = f"checkpoints/{model}/"
        self._connection = connection

    @functools.cached_property
    def _client(self) -> Minio:
        return Minio(**self._connection.store_options())

    def put_folder(self, folder: Path, progress: Progress) -> ArtifactRef:
        """Upload a checkpoint folder; the manifest is written last and commits it."""
        manifest = describe_folder(folder)
        done = 0
        for entry in manifest.files:
            before = done
            self.put_file(folder / entry.path, lambda sent, before=before: progress(before + sent, manifest.size_bytes))  # type: ignore[misc]
            done += entry.size_bytes
            progress(done, manifest.size_bytes)
        data = manifest.to_bytes()
        digest = digest_of(data)
        key = f"{self._prefix}manifests/folder/{digest.removeprefix('sha256:')}.json"
        self._put(key, io.BytesIO(data), len(data))
        return ArtifactRef(uri=self._uri(key), digest=digest, size_bytes=len(data))

    def put_file(self, path: Path, sent: Callable[[int], None]) -> ArtifactRef:
        """Upload one file under its digest, unless it is stored already."""
        entry = describe_file(path)
        key = f"{self._prefix}blobs/sha256/{entry.digest[7:9]}/{entry.digest[7:]}"
        with path.open("rb") as file:
            self._put(key, _Counted(file, sent), entry.size_bytes)
        return ArtifactRef(uri=self._uri(key), digest=entry.digest, size_bytes=entry.size_bytes)

    def find_base(self, name_and_revision: str) -> BaseManifest:
        """Return an imported base model by `NAME` or `NAME@REVISION`; without a revision, the newest import.

        Raises:
            PublishError: it was not imported.
        """
        name, _, revision = name_and_revision.partition("@")
        prefix = f"bases/{name}/"
        try:
            listed = self._client.list_objects(bucket_name=self._bucket, prefix=prefix, recursive=True)
            bases = [BaseManifest.model_validate_json(self._read(str(entry.object_name))) for entry in listed]
        except (MinioException, urllib3.exceptions.HTTPError) as error:
            raise _unreachable(error) from error
        fitting = [base for base in bases if base.name == name and revision in ("", base.revision)]
        if not fitting:
            raise PublishError(
                f"The base model {name_and_revision} was not imported: ask operations to run `slipway base import`."
            )
        return max(fitting, key=lambda base: base.imported_at)

    def _read(self, key: str) -> bytes:
        response = self._client.get_object(bucket_name=self._bucket, object_name=key)
        try:
            return bytes(response.read())
        finally:
            response.close()
            response.release_conn()

    def _put(self, key: str, data: Any, size: int) -> None:
        try:
            if self._size_of(key) != size:
                self._client.put_object(
                    bucket_name=self._bucket, object_name=key, data=data, length=size, part_size=PART_BYTES
                )
        except (MinioException, urllib3.exceptions.HTTPError) as error:
            raise _unreachable(error) from error

    def _size_of(self, key: str) -> int | None:
        try:
            size: int | None = self._client.stat_object(bucket_name=self._bucket, object_name=key).size
        except S3Error as error:
            if error.code == "NoSuchKey":
                return None
            raise
        return size

    def _uri(self, key: str) -> str:
        return f"s3://{self._bucket}/{key}"


class _Counted:
    """A file that reports how much of it was read."""

    def __init__(self, file: BinaryIO, sent: Callable[[int], None]) -> None:
        self._file = file
        self._sent = sent
        self._done = 0

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._done += len(data)
        self._sent(self._done)
        return data


def _unreachable(error: Exception) -> PublishError:
    if isinstance(error, S3Error):
        if error.code == "AccessDenied":
            return PublishError(
                f"The object store does not permit this: {error.object_name or error.bucket_name}. It takes the role "
                "publisher of the model, which an administrator of the keys gives with `slipway keys add`."
            )
        return PublishError(f"The object store answered {error.code}: {error.message}.")
    return PublishError(f"The object store does not answer ({error}): publish again when it does.")
