"""Transfers objects between memory and an S3 server, in parallel parts."""

import contextvars
import http.client
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from queue import SimpleQueue
from types import MappingProxyType
from typing import Any, BinaryIO

import structlog
import urllib3
from minio import Minio
from minio.credentials import Provider
from minio.datatypes import Part
from minio.error import S3Error

PART_BYTES = 16 * 1024 * 1024
PARALLEL = 4
CHUNK_BYTES = 512 * 1024  # larger writes to a file get huge pages, which can take longer than everything else
CHUNKS = 4
LISTED_UPLOADS = 1000
"""Page size of listed uploads."""
_HEADERS = {"Content-Type": "application/octet-stream"}
_NO_MORE: Mapping[str, str] = MappingProxyType({})
_creating: contextvars.ContextVar[bool] = contextvars.ContextVar("creating", default=False)


class ShortObjectError(Exception):
    """An object has another size than announced."""


class LargeObjectError(Exception):
    """An object is larger than the limit for reads into memory."""


def open_uploads(list_page: Callable[..., Any]) -> Iterator[Any]:
    """Yield all unfinished multipart uploads, each once.

    Pages continue after the last id (SeaweedFS), or after id and key if the server needs both (AWS).

    Args:
        list_page: Returns the uploads after `upload_id_marker` and `key_marker`.
    """
    listed: set[str] = set()
    last: Any = None
    by_key = False
    while True:
        key = last.object_name if by_key else None
        page = list_page(key_marker=key, upload_id_marker=last.upload_id if last is not None else None)
        new = [upload for upload in page.uploads if upload.upload_id not in listed]
        yield from new
        if not page.is_truncated or (by_key and not new):
            return
        if new:
            listed |= {upload.upload_id for upload in new}
            last = new[-1]
        else:
            by_key = last is not None
            if not by_key:
                return


class _CreateOnly(urllib3.PoolManager):  # type: ignore[misc]  # urllib3 is skipped by mypy
    """Adds `If-None-Match: *` to the request that makes an object visible; the SDK has no parameter for it."""

    def urlopen(self, method: str, url: str, redirect: bool = True, **kw: Any) -> Any:
        completes = (method == "PUT" and "uploadId" not in url) or (method == "POST" and "uploadId" in url)
        if _creating.get() and completes:
            kw["headers"] = {**(kw.get("headers") or {}), "If-None-Match": "*"}
        return super().urlopen(method, url, redirect, **kw)


class TransferClient(Minio):  # type: ignore[misc]  # minio is skipped by mypy
    """The SDK's client with parallel transfers of parts, without copies of their bytes."""

    def __init__(self, *, endpoint: str, region: str, credentials: Provider, tls: ssl.SSLContext) -> None:
        pool = _CreateOnly(
            ssl_context=tls,
            timeout=urllib3.Timeout(connect=30, read=120),
            maxsize=16,  # sending a body is under the first of these
            retries=urllib3.Retry(total=2, backoff_factor=0.2, status_forcelist=[500, 502, 503, 504]),
        )
        super().__init__(endpoint=endpoint, region=region, credentials=credentials, secure=True, http_client=pool)
        self._workers = ThreadPoolExecutor(PARALLEL, thread_name_prefix="store")

    @contextmanager
    def creating(self) -> Iterator[None]:
        """Make writes in this context fail with `PreconditionFailed` if the object exists."""
        token = _creating.set(True)
        try:
            yield
        finally:
            _creating.reset(token)

    def write(
        self,
        bucket: str,
        key: str,
        data: memoryview,
        sent: Callable[[int], None] | None = None,
        headers: Mapping[str, str] = _NO_MORE,
    ) -> None:
        """Write an object from memory; `sent` is called with the size of each stored part."""
        parts = (data[at : at + PART_BYTES] for at in range(0, len(data), PART_BYTES))
        self.write_parts(bucket, key, len(data), parts, sent=sent, headers=headers)

    def write_parts(
        self,
        bucket: str,
        key: str,
        size: int,
        parts: Iterator[memoryview],
        *,
        sent: Callable[[int], None] | None = None,
        headers: Mapping[str, str] = _NO_MORE,
    ) -> None:
        """Write an object of `size` bytes from parts of PART_BYTES, a few of them in memory at a time.

        The object becomes visible after the last part; if the iterator raises, nothing is stored. `sent` is called with
        the size of each stored part.
        """
        if size <= 2 * PART_BYTES:
            self._put_object(bucket, key, memoryview(b"".join(parts)), {**_HEADERS, **headers})
            if sent is not None:
                sent(size)
            return
        upload = self._create_multipart_upload(bucket, key, {**_HEADERS, **headers})
        sending: list[Future[Part]] = []

        def send(number: int, piece: memoryview) -> Part:
            part = Part(number, self._upload_part(bucket, key, piece, None, upload, number))
            if sent is not None:
                sent(len(piece))
            return part

        try:
            for number, piece in enumerate(parts, 1):
                if number > PARALLEL:
                    sending[number - PARALLEL - 1].result()
                sending.append(self._workers.submit(send, number, piece))
            self._complete_multipart_upload(bucket, key, upload, [part.result() for part in sending])
        except BaseException:
            self._give_up(bucket, key, upload, sending)
            raise

    def _give_up(self, bucket: str, key: str, upload: str, sending: Sequence[Future[Part]]) -> None:
        """Abort an upload after its pending parts ended; a late part could stay in the store."""
        for part in sending:
            part.cancel()
        wait(sending)
        self._abort(bucket, key, upload)

    def _abort(self, bucket: str, key: str, upload: str) -> bool:
        try:
            self._abort_multipart_upload(bucket, key, upload)
        except Exception as error:  # noqa: BLE001 - why it is aborted matters more, and a sweep comes back for it
            if isinstance(error, S3Error) and error.code == "NoSuchUpload":
                return False  # another process was first
            structlog.get_logger().warning("an upload could not be aborted", object=key, error=repr(error))
            return False
        return True

    def abort_uploads(self, bucket: str, matches: Callable[[str], bool], before: datetime) -> int:
        """Abort the matching multipart uploads that began before a time; return their number."""
        stale = [
            upload
            for upload in open_uploads(partial(self._list_multipart_uploads, bucket, max_uploads=LISTED_UPLOADS))
            if matches(upload.object_name) and (upload.initiated_time or before) < before
        ]
        return sum(self._abort(bucket, upload.object_name, upload.upload_id) for upload in stale)

    def parts_of(self, bucket: str, key: str, upload: str) -> list[Part]:
        """Return the received parts of a multipart upload, in order, the newest of each number; none after its end."""
        newest: dict[int, Part] = {}
        after = 0
        while True:
            try:
                page = self._list_parts(bucket, key, upload, part_number_marker=str(after))
            except S3Error as error:
                if error.code == "NoSuchUpload":
                    return []
                raise
            for part in page.parts:
                known = newest.get(part.part_number)
                if known is None or known.last_modified <= part.last_modified:
                    newest[part.part_number] = part
            if not page.is_truncated:
                return [newest[number] for number in sorted(newest)]
            after = page.next_part_number_marker

    def arrived(self, bucket: str, prefix: str) -> dict[str, int]:
        """Return the received bytes of unfinished multipart uploads, by key and upload."""
        list_page = partial(self._list_multipart_uploads, bucket, prefix=prefix, max_uploads=LISTED_UPLOADS)
        begun = [upload for upload in open_uploads(list_page) if upload.object_name.startswith(prefix)]
        return {
            f"{upload.object_name} {upload.upload_id}": sum(
                part.size or 0 for part in self.parts_of(bucket, upload.object_name, upload.upload_id)
            )
            for upload in begun
        }

    def read(self, bucket: str, key: str, most: int, size: int | None = None, version: str | None = None) -> bytes:
        """Return a whole object, reading at most the allowed bytes.

        Args:
            bucket: Name of the bucket.
            key: Key of the object.
            most: Size limit in bytes.
            size: Expected size in bytes, if known.
            version: Version id; None for the latest.

        Raises:
            ShortObjectError: The size is not `size`.
            LargeObjectError: The size is above `most`.
        """
        response = self.get_object(bucket_name=bucket, object_name=key, version_id=version)
        try:
            announced = response.headers.get("Content-Length")
            if size is not None:
                _expect(announced, size)
            if max(int(announced or 0), size or 0) > most:
                raise LargeObjectError
            limit = most if size is None else size
            data: bytes = response.read(limit + 1, decode_content=False)
        finally:
            response.close()
            response.release_conn()
        expected = int(announced) if announced else size
        if expected is not None and len(data) < min(expected, limit + 1):  # urllib3 does not tell when it reads a part
            raise urllib3.exceptions.ProtocolError(f"the connection ended after {len(data)} of {expected} bytes")
        if size is not None and len(data) > size:
            raise ShortObjectError(f"more bytes instead of {size}")
        if len(data) > most:
            raise LargeObjectError
        return data

    def read_into(
        self, bucket: str, key: str, start: int, out: memoryview, size: int, *, version: str | None = None
    ) -> None:
        """Fill `out` with the bytes from `start` of an object of `size` bytes.

        Raises:
            ShortObjectError: The object has another size.
            ProtocolError: The server answered another range.
        """
        at = range(0, len(out), PART_BYTES)
        if len(at) == 1:
            self._range_into(bucket, key, start, out, size, version=version)
            return
        reads = [
            self._workers.submit(
                self._range_into, bucket, key, start + i, out[i : i + PART_BYTES], size, version=version
            )
            for i in at
        ]
        for read in reads:
            read.result()

    def download(
        self,
        bucket: str,
        key: str,
        size: int,
        out: BinaryIO,
        saw: Callable[[memoryview], None],
        *,
        version: str | None = None,
    ) -> None:
        """Write an object of `size` bytes to `out`; `saw` gets its bytes in order, concurrently with the transfer.

        Raises:
            ShortObjectError: The object has another size.
        """
        response = self.get_object(bucket_name=bucket, object_name=key, version_id=version)
        free: SimpleQueue[memoryview | None] = SimpleQueue()
        full: SimpleQueue[memoryview | None] = SimpleQueue()
        for _ in range(CHUNKS):
            free.put(memoryview(bytearray(min(CHUNK_BYTES, size))))
        try:
            _expect(response.headers.get("Content-Length"), size)
            reading = self._workers.submit(_receive, response, size, out, free, full)
            while (chunk := full.get()) is not None:
                saw(chunk)
                free.put(chunk)
            reading.result()
        finally:
            free.put(None)
            _give_back(response)

    def _range_into(
        self, bucket: str, key: str, start: int, out: memoryview, size: int, *, version: str | None
    ) -> None:
        response = self.get_object(
            bucket_name=bucket, object_name=key, offset=start, length=len(out), version_id=version
        )
        try:
            _expect_range(response, start, len(out), size)
            _read_fully(response, out)
            response._fp.read()  # noqa: SLF001 - to the end, so that the connection can be used again
        finally:
            _give_back(response)


def _expect(announced: str | None, size: int) -> None:
    if announced and int(announced) != size:
        raise ShortObjectError(f"{announced} bytes instead of {size}")


def _expect_range(response: Any, start: int, length: int, size: int) -> None:
    """Raise unless an answer is the requested range of an object."""
    answered = response.headers.get("Content-Range")
    if answered is None and (start, length) == (0, size):
        _expect(response.headers.get("Content-Length"), size)
        return
    part, _, whole = (answered or "").removeprefix("bytes ").partition("/")
    if whole.isdecimal():
        _expect(whole, size)
    if part != f"{start}-{start + length - 1}":
        raise urllib3.exceptions.ProtocolError(
            f"the store answered {answered or 'the whole object'} instead of bytes {start}-{start + length - 1}"
        )


def _give_back(response: Any) -> None:
    """Return the connection of a response to its pool; close it if the body was not read to its end.

    urllib3's `close` would always close it, because it does not see reads past its own `read`.
    """
    if not response._fp.isclosed():  # noqa: SLF001 - see above
        response.close()
    response.release_conn()


def _receive(
    response: Any,
    size: int,
    out: BinaryIO,
    free: SimpleQueue[memoryview | None],
    full: SimpleQueue[memoryview | None],
) -> None:
    """Write a body to a file through the free buffers until its end, or until the reader puts None."""
    try:
        for at in range(0, size, CHUNK_BYTES):
            buffer = free.get()
            if buffer is None:
                return
            chunk = buffer[: min(CHUNK_BYTES, size - at)]
            _read_fully(response, chunk)
            out.write(chunk)
            full.put(chunk)
    finally:
        full.put(None)


def _read_fully(response: Any, out: memoryview) -> None:
    """Read a body into memory without the three copies of the response's own `read`."""
    body, filled = response._fp, 0  # noqa: SLF001 - urllib3's `readinto` copies
    try:
        while filled < len(out):
            count = body.readinto(out[filled:])
            if not count:
                raise urllib3.exceptions.ProtocolError(f"the connection ended after {filled} of {len(out)} bytes")
            filled += count
    except (OSError, http.client.HTTPException) as error:
        raise urllib3.exceptions.ProtocolError(str(error), error) from error


class Count:
    """A thread-safe sum of the bytes of several transfers."""

    def __init__(self, total: int, progress: Callable[[int, int], None] | None) -> None:
        """Set the total bytes, and the callback for done and total bytes."""
        self.done, self._total, self._progress, self._lock = 0, total, progress, threading.Lock()

    def add(self, count: int) -> None:
        """Count bytes, and report."""
        with self._lock:
            self.done += count
            if self._progress is not None and count:
                self._progress(self.done, self._total)
