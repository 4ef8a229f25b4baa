"""Uploads of publishers in the S3 store: signed URLs, multipart uploads and content digests.

A permit is a URL for one request, signed by AWS Signature Version 4 in the query. `minio` presigns URLs without
headers; `Signer` also signs the body's length and checksum.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote, urlencode
from xml.etree.ElementTree import Element, SubElement, tostring

from minio.error import S3Error

from contracts.manifests import BaseManifest
from contracts.storage.uploads import UploadPermit
from services.registry.domain.uploads import Piece, StoredFile
from shared.runtime.clock import Clock
from shared.runtime.settings import Connection
from shared.storage.blobs import STALE_UPLOAD, Store
from shared.storage.objects import AlreadyExists

ALGORITHM: Final = "AWS4-HMAC-SHA256"


@dataclass(frozen=True)
class Signer:
    """The signing key and endpoint of upload URLs.

    Attributes:
        endpoint: Host and port at which publishers reach the store; part of the signature.
    """

    access_key: str
    secret_key: str
    region: str
    endpoint: str

    def url(
        self,
        method: str,
        path: str,
        now: datetime,
        *,
        expires_s: int,
        headers: Mapping[str, str],
        query: Mapping[str, str] | None = None,
    ) -> str:
        """Return the presigned URL of a request that must carry these headers with these values.

        Args:
            method: HTTP method.
            path: Unquoted path: `/BUCKET/KEY`.
            now: Start of the URL's validity.
            expires_s: Validity in seconds.
            headers: Required headers besides `host`.
            query: Further query parameters.
        """
        stamp = now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
        scope = f"{stamp[:8]}/{self.region}/s3/aws4_request"
        signed = {"host": self.endpoint, **{name.lower(): value.strip() for name, value in headers.items()}}
        names = ";".join(sorted(signed))
        parameters = {
            **(query or {}),
            "X-Amz-Algorithm": ALGORITHM,
            "X-Amz-Credential": f"{self.access_key}/{scope}",
            "X-Amz-Date": stamp,
            "X-Amz-Expires": str(expires_s),
            "X-Amz-SignedHeaders": names,
        }
        quoted_path = quote(path, safe="/-_.~")
        canonical_query = urlencode(sorted(parameters.items()), quote_via=quote, safe="-_.~")
        lines = "".join(f"{name}:{signed[name]}\n" for name in sorted(signed))
        request = f"{method}\n{quoted_path}\n{canonical_query}\n{lines}\n{names}\nUNSIGNED-PAYLOAD"
        text = f"{ALGORITHM}\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        signature = hmac.new(self._key(scope), text.encode(), hashlib.sha256).hexdigest()
        return f"https://{self.endpoint}{quoted_path}?{canonical_query}&X-Amz-Signature={signature}"

    def _key(self, scope: str) -> bytes:
        key = f"AWS4{self.secret_key}".encode()
        for part in scope.split("/"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        return key


_BLOCK = 1 << 20
_UPLOADED = re.compile(r"^checkpoints/[^/]+/uploads/")


class StagedUploads(Store):
    """Uploads by publishers under keys that the registry chooses. Synchronous: call through `asyncio.to_thread`."""

    def __init__(self, connection: Connection, endpoint: str | None, expires_s: int, clock: Clock) -> None:
        super().__init__(connection)
        self._region = connection.s3_region
        self._endpoint = endpoint or connection.s3_endpoint
        self._expires_s = expires_s
        self._clock = clock

    def find_file(self, key: str) -> StoredFile | None:
        """Return an object's size, version and ETag; None if it does not exist."""
        with self._translated(key):
            try:
                status = self._client.stat_object(bucket_name=self.bucket, object_name=key)
            except S3Error as error:
                if error.code in ("NoSuchKey", "NoSuchObject"):
                    return None
                raise
        return StoredFile(size_bytes=status.size or 0, version=status.version_id, tag=str(status.etag))

    def permit(self, key: str, file: str, piece: Piece, upload: str | None = None) -> UploadPermit:
        """Return the permit to upload a whole file once, or a part any number of times.

        Length and SHA-256 are signed. A store that ignores checksums accepts other bytes, so the registry reads each
        file afterwards.
        """
        headers = {"x-amz-checksum-sha256": _base64(piece.digest)}
        query = {"partNumber": str(piece.number), "uploadId": upload} if upload is not None else {}
        if upload is None:
            headers["if-none-match"] = "*"
        signed = {**headers, "content-length": str(piece.size_bytes)}
        key_of_store = self._key.retrieve()
        signer = Signer(key_of_store.access_key, key_of_store.secret_key, self._region, self._endpoint)
        now, path = self._clock.now(), f"/{self.bucket}/{key}"
        url = signer.url("PUT", path, now, expires_s=self._expires_s, headers=signed, query=query)
        return UploadPermit(digest=file, offset=piece.offset, size_bytes=piece.size_bytes, url=url, headers=headers)

    def open_upload(self, key: str) -> tuple[str, Mapping[int, int]]:
        """Return the ID of an object's newest multipart upload, else of a new upload, and its part sizes by number."""
        with self._translated(key):
            listed = self._client._list_multipart_uploads(self.bucket, prefix=key).uploads  # noqa: SLF001
            begun = [listed_upload for listed_upload in listed if listed_upload.object_name == key]
            if not begun:
                headers = {"Content-Type": "application/octet-stream", "x-amz-checksum-algorithm": "SHA256"}
                return str(self._client._create_multipart_upload(self.bucket, key, headers)), {}  # noqa: SLF001
            upload = str(max(begun, key=lambda begun_upload: str(begun_upload.initiated_time)).upload_id)
            parts = self._client.parts_of(self.bucket, key, upload)
            return upload, {part.part_number: part.size or 0 for part in parts}

    def complete(self, key: str, upload: str, digests: Sequence[str]) -> None:
        """Complete a multipart upload whose parts have these digests; an existing object stays unchanged."""
        element = Element("CompleteMultipartUpload")
        for part, digest in zip(self._client.parts_of(self.bucket, key, upload), digests, strict=True):
            tag = SubElement(element, "Part")
            SubElement(tag, "ChecksumSHA256").text = _base64(digest)
            SubElement(tag, "ETag").text = f'"{part.etag}"'
            SubElement(tag, "PartNumber").text = str(part.part_number)
        body = tostring(element)
        headers = {
            "Content-Type": "application/xml",
            "Content-MD5": base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode(),
        }
        try:
            with self._translated(key), self._client.creating():  # minio's own method sends no checksums
                query = {"uploadId": upload}
                self._client._execute("POST", self.bucket, key, body=body, headers=headers, query_params=query)  # noqa: SLF001
        except AlreadyExists:
            return

    def digest_of(self, key: str, version: str | None) -> str:
        """Read an object and return its digest; `version` None reads the current version."""
        hashed = hashlib.sha256()
        with self._translated(key):
            response = self._client.get_object(bucket_name=self.bucket, object_name=key, version_id=version)
            try:
                for block in response.stream(_BLOCK):
                    hashed.update(block)
            finally:
                response.close()
                response.release_conn()
        return f"sha256:{hashed.hexdigest()}"

    def remove(self, key: str) -> None:
        """Remove every version of an object."""
        self._erase(key)

    def abort_unfinished(self) -> None:
        """Abort publishers' multipart uploads older than `STALE_UPLOAD`."""
        self.abort_stale_uploads(self._clock.now() - STALE_UPLOAD, _UPLOADED)

    def find_base(self, name_and_revision: str) -> BaseManifest | None:
        """Return an imported base model by `NAME@REVISION`, or the newest by `NAME`; None if there is none."""
        name, _, revision = name_and_revision.partition("@")
        read = [self.find(key) for key in self.keys(f"bases/{name}/")]
        bases = [BaseManifest.model_validate_json(data) for data in read if data is not None]
        fitting = [base for base in bases if base.name == name and revision in ("", base.revision)]
        return max(fitting, key=lambda base_model: base_model.imported_at, default=None)

    def base_names(self) -> list[str]:
        """Return the distinct names of the imported base models."""
        return sorted({key.removeprefix("bases/").rpartition("/")[0] for key in self.keys("bases/")})


def _base64(digest: str) -> str:
    return base64.b64encode(bytes.fromhex(digest.removeprefix("sha256:"))).decode()
