"""Small objects of one bucket: read and written whole, create-only, in versions."""

import base64
import hashlib
import itertools
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self, TypeVar

from minio.error import S3Error

from contracts.manifests import LockMode
from contracts.storage.access import PROBE
from contracts.vocabulary import ArtifactRef, digest_of
from shared.errors import Permanent, Transient, is_failed_answer, translate
from shared.runtime.settings import Connection
from shared.storage.credentials import FileProvider, describe_refusal, trusted
from shared.storage.transfer import LargeObjectError, ShortObjectError, TransferClient


class UnreadableObjects:
    """The objects that this process could not read at its last attempt."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Start empty."""
        self._monotonic = monotonic
        self._failing: dict[str, tuple[int, float]] = {}

    def note_failure(self, key: str) -> Transient:
        """Count a failed read; return `object_unreadable` with the number and seconds of failures in a row."""
        now_s = self._monotonic()
        tries, since_s = self._failing.get(key, (0, now_s))
        self._failing[key] = (tries + 1, since_s)
        reason = f"The object store does not read {key}, and reads other objects: its bytes may be damaged."
        failing_s = round(now_s - since_s, 1)
        return Transient("object_unreadable", reason, object=key, tries=tries + 1, failing_s=failing_s)

    def note_read(self, key: str) -> None:
        """Forget the failures of an object after a read."""
        self._failing.pop(key, None)


T = TypeVar("T")

WHOLE_BYTES = 128 * 1024**2
"""Size limit of objects read whole; manifests have kilobytes, sets of texts tens of megabytes."""

_OTHERS_READ = 3
"""Number of other objects tried after a failed read."""
_ABSENT = ("NoSuchKey", "NoSuchBucket", "NoSuchVersion")
_NO_LOCK = ("ObjectLockConfigurationNotFoundError", "NotImplemented")
_PRECONDITION_FAILED = "PreconditionFailed"
_URI = re.compile(r"^s3://(?P<bucket>[^/]+)/(?P<key>.+)$")


class AlreadyExists(Exception):  # noqa: N818 - an answer, not a failure
    """A create-only put found the key taken."""


@dataclass(frozen=True)
class Retention:
    """An object version's retention: its end, and its mode (governance can be bypassed by a permission)."""

    mode: LockMode
    until: datetime

    def headers(self, data: bytes) -> dict[str, str]:
        """Return the headers of a write under lock, with the checksum that S3 then requires."""
        checksum = hashlib.md5(data, usedforsecurity=False).digest()
        return {
            "x-amz-object-lock-mode": self.mode.upper(),
            "x-amz-object-lock-retain-until-date": self.until.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "Content-MD5": base64.b64encode(checksum).decode(),
        }


@dataclass(frozen=True)
class ObjectVersion:
    """A version of an object, or a delete marker over it.

    Attributes:
        version_id: Its id; `null` for one written before versioning was enabled.
        latest: Whether readers without a version get this one, or 404 for a marker.
    """

    key: str
    version_id: str
    marker: bool
    latest: bool
    size: int
    modified: datetime


class ObjectStore:
    """The small objects of a bucket. Synchronous: call through `asyncio.to_thread`."""

    def __init__(self, connection: Connection) -> None:
        """Use the settings; raise ValueError if `s3_ca` cannot be read."""
        self.bucket = connection.s3_bucket
        self._pins: Mapping[str, str] = {}
        self._unreadable = UnreadableObjects()
        self._key = FileProvider(connection.s3_credentials)
        self._client = TransferClient(
            endpoint=connection.s3_endpoint,
            region=connection.s3_region,
            credentials=self._key,
            tls=trusted(connection.s3_ca),
        )

    # -- start-up ---------------------------------------------------------------------------------------------------

    def ensure_bucket(self) -> None:
        """Create the bucket if missing, with versions and object lock if the server supports them."""
        with self._translated("the bucket"):
            if self._client.bucket_exists(bucket_name=self.bucket):
                return
            try:
                self._client.make_bucket(bucket_name=self.bucket, object_lock=True)
            except S3Error as error:
                if error.code not in _NO_LOCK:
                    raise
                self._client.make_bucket(bucket_name=self.bucket)

    def has_lock(self) -> bool:
        """Return whether the bucket was made with object lock."""
        try:
            with self._translated("the bucket"):
                self._client.get_object_lock_config(bucket_name=self.bucket)
        except (Permanent, Transient) as error:
            if isinstance(error.__cause__, S3Error) and error.__cause__.code in _NO_LOCK:
                return False
            raise
        return True

    def is_empty(self) -> bool:
        """Return whether the bucket is empty, except for objects of `check_create_only`."""
        with self._translated("the bucket"):
            tops = self._client.list_objects(bucket_name=self.bucket)
            return all(entry.object_name == PROBE for entry in tops)

    def check_create_only(self) -> None:
        """Raise Permanent unless the server honours create-only puts (`If-None-Match`)."""
        key = f"{PROBE}{secrets.token_hex(8)}"
        self.create(key, b"first")
        try:
            self.create(key, b"second")
        except AlreadyExists:
            honoured = self.find(key) == b"first"
        else:
            honoured = False
        self._erase(key)
        if not honoured:
            raise Permanent(
                "store_unavailable",
                "The object store ignores If-None-Match, so commits could be overwritten; use a server with "
                "conditional writes.",
            )

    def reachable(self) -> bool:
        """Return True if the store answers this identity, and the bucket exists.

        Raises:
            Transient: `store_unavailable`: the store does not answer, or the bucket does not exist.
        """
        try:
            with self._translated("the bucket"):
                next(iter(self._client.list_objects(bucket_name=self.bucket, prefix=PROBE)), None)
        except Permanent as error:
            absent = f"The bucket {self.bucket} does not exist; create it, or set SLIPWAY_S3_BUCKET."
            reason = absent if error.code == "artifact_not_found" else error.reason
            raise Transient("store_unavailable", reason) from error
        return True

    # -- names ------------------------------------------------------------------------------------------------------

    def uri(self, key: str) -> str:
        """Return the URI of a key in this bucket."""
        return f"s3://{self.bucket}/{key}"

    def key_of(self, uri: str) -> str:
        """Return the key of a URI in this bucket; raise Permanent `uri_not_allowed` for other URIs."""
        match = _URI.match(uri)
        if match is None or match["bucket"] != self.bucket or ".." in match["key"].split("/"):
            raise Permanent("uri_not_allowed", f"{uri[:200]} is not in the bucket {self.bucket}.")
        return match["key"]

    # -- small objects ----------------------------------------------------------------------------------------------

    def find(self, key: str) -> bytes | None:
        """Return a small object, or None.

        Raises:
            Permanent: artifact_not_found above WHOLE_BYTES.
        """
        return self._read(key)

    def get(self, ref: ArtifactRef) -> bytes:
        """Return a small artifact, with verified size and digest.

        Raises:
            Permanent: artifact_not_found, also above WHOLE_BYTES; digest_mismatch.
        """
        data = self._read(self.key_of(ref.uri), ref.size_bytes)
        if data is None:
            raise Permanent("artifact_not_found", f"{ref.uri} does not exist.")
        digest = digest_of(data)
        if digest != ref.digest:
            raise Permanent("digest_mismatch", f"{ref.uri} is {digest}, announced as {ref.digest}.", found=digest)
        return data

    def _read(self, key: str, size: int | None = None) -> bytes | None:
        read = self._client.read
        with self._translated(key):
            try:
                return self._pinned(key, lambda version: read(self.bucket, key, WHOLE_BYTES, size, version))
            except S3Error as error:
                if error.code in _ABSENT:
                    return None
                raise

    def create(self, key: str, data: bytes, retention: Retention | None = None) -> ArtifactRef:
        """Write a new object, optionally under lock; raise AlreadyExists if it exists."""
        headers = retention.headers(data) if retention is not None else {}
        with self._translated(key), self._client.creating():
            self._client.write(self.bucket, key, memoryview(data), headers=headers)
        return ArtifactRef(uri=self.uri(key), digest=digest_of(data), size_bytes=len(data))

    def ref_to(self, key: str) -> ArtifactRef:
        """Return the ref of an object; raise Permanent artifact_not_found without one."""
        data = self.find(key)
        if data is None:
            raise Permanent("artifact_not_found", f"{self.uri(key)} does not exist.")
        return ArtifactRef(uri=self.uri(key), digest=digest_of(data), size_bytes=len(data))

    def keys(self, prefix: str) -> list[str]:
        """Return the keys below a prefix."""
        return list(self.sizes(prefix))

    def folders(self, prefix: str) -> list[str]:
        """Return the folders directly below a prefix, without final slashes."""
        with self._translated(prefix):
            listed = self._client.list_objects(bucket_name=self.bucket, prefix=prefix)
            return [entry.object_name.rstrip("/") for entry in listed if entry.object_name and entry.is_dir]

    def sizes(self, prefix: str) -> dict[str, int]:
        """Return the bytes of each object below a prefix, by its key."""
        with self._translated(prefix):
            listed = self._client.list_objects(bucket_name=self.bucket, prefix=prefix, recursive=True)
            return {entry.object_name: entry.size or 0 for entry in listed if entry.object_name}

    # -- versions ---------------------------------------------------------------------------------------------------

    def bytes_below(self, prefix: str) -> dict[str, int]:
        """Return the bytes below a prefix, by key and version, and of unfinished uploads by key and upload.

        An upload that ends between the two listings is counted twice.
        """
        with self._translated(prefix):
            arrived: dict[str, int] = self._client.arrived(self.bucket, prefix)
        stored = self.versions(prefix)
        return {
            **arrived,
            **{f"{version.key} {version.version_id}": version.size for version in stored if not version.marker},
        }

    def versions(self, prefix: str) -> list[ObjectVersion]:
        """Return the versions and delete markers of all objects below a prefix, by key, oldest first."""
        with self._translated(prefix):
            listed = self._client.list_objects(
                bucket_name=self.bucket, prefix=prefix, recursive=True, include_version=True
            )
            versions = [
                ObjectVersion(
                    key=entry.object_name,
                    version_id=entry.version_id or "null",
                    marker=bool(entry.is_delete_marker),
                    latest=str(entry.is_latest).lower() == "true",
                    size=entry.size or 0,
                    modified=entry.last_modified,
                )
                for entry in listed
                if entry.object_name
            ]
        versions.reverse()  # a server lists the newest first; the client adds delete markers, of any second, behind
        return sorted(versions, key=lambda version: (version.key, version.modified, version.latest))

    def pinned(self, pins: Mapping[str, str]) -> Self:
        """Return this store with fixed versions for reads of some keys."""
        store = copy(self)
        store._pins = pins  # noqa: SLF001 - of the same class
        return store

    def _pinned(self, key: str, read: Callable[[str | None], T]) -> T:
        """Read the pinned version of an object.

        Raises:
            Transient: `object_unreadable`: the store fails at this object only.
        """
        try:
            content = read(self._pins.get(key))
        except Exception as error:
            if not is_failed_answer(error) or not self._reads_others(key):
                raise
            raise self._unreadable.note_failure(key) from error
        self._unreadable.note_read(key)
        return content

    def _reads_others(self, key: str) -> bool:
        """Return whether the store reads another object in the same top folder."""
        prefix = f"{key.partition('/')[0]}/"
        try:
            listed = self._client.list_objects(bucket_name=self.bucket, prefix=prefix, recursive=True)
            others = ((entry.object_name, entry.size) for entry in listed if entry.object_name != key and entry.size)
            for other, size in itertools.islice(others, _OTHERS_READ):
                try:
                    self._client.read_into(self.bucket, other, 0, memoryview(bytearray(1)), size)
                except Exception as error:
                    if not is_failed_answer(error):
                        raise
                else:
                    return True
        except Exception:  # noqa: BLE001 - then the store does not answer, whatever the object
            return False
        return False

    def _erase(self, key: str) -> None:
        """Remove every version of an object."""
        for version in self.versions(key):
            if version.key == key:
                with self._translated(key):
                    self._client.remove_object(bucket_name=self.bucket, object_name=key, version_id=version.version_id)

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except ShortObjectError as error:
            raise Permanent("digest_mismatch", f"The object {what} has {error}.") from error
        except LargeObjectError as error:
            raise Permanent(
                "artifact_not_found",
                f"The object {what} has more than {WHOLE_BYTES >> 20} MiB, so it is not a manifest; name the manifest "
                "of a folder, and of a calibration or evaluation set a smaller sample.",
            ) from error
        except S3Error as error:
            if error.code == _PRECONDITION_FAILED:
                raise AlreadyExists(what) from error
            raise describe_refusal(error, self._key.name, what) or translate(error) or error from error
        except Exception as error:
            translated = translate(error)
            if translated is None or translated is error:
                raise
            if isinstance(translated, Transient):
                translated.details["object"] = what
            raise translated from error
