"""The store of uploads in memory, and what sends bytes to it by its permits."""

import itertools
from datetime import datetime, timedelta
from hashlib import sha256

from contracts.manifests import BaseManifest
from contracts.storage.uploads import UploadPermit
from contracts.vocabulary import ArtifactRef, digest_of
from services.registry.domain.uploads import Piece, StoredFile
from tests.kit.fakes_registry import START

PREFIX = "s3://slipway/"


class FakeUploads:
    """Objects, parts and permits. A test sends bytes by `send`, and moves the time by `wait`."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[str, bytes]] = {}
        self.parts: dict[tuple[str, str], dict[int, bytes]] = {}
        self._begun: dict[tuple[str, str], datetime] = {}
        self._permitted: dict[str, tuple[str, Piece, str | None]] = {}
        self._numbers = itertools.count(1)
        self._now = START

    def send(self, permit: UploadPermit, data: bytes) -> int:
        """PUT bytes by a permit, and return the status that the store would."""
        key, piece, upload = self._permitted[permit.url]
        if len(data) != piece.size_bytes:
            return 403
        if digest_of(data) != piece.digest:
            return 400
        if upload is not None:
            self.parts[key, upload][piece.number] = data
            return 200
        return 200 if self._create(key, data) else 412

    def wait(self, time: timedelta) -> None:
        """Let time pass."""
        self._now += time

    def _create(self, key: str, data: bytes) -> bool:
        if key in self.objects:
            return False
        self.objects[key] = (f"v{next(self._numbers)}", data)
        return True

    def uri(self, key: str) -> str:
        return PREFIX + key

    def find_file(self, key: str) -> StoredFile | None:
        if key not in self.objects:
            return None
        version, data = self.objects[key]
        return StoredFile(len(data), version, sha256(data).hexdigest())

    def permit(self, key: str, file: str, piece: Piece, upload: str | None = None) -> UploadPermit:
        url = f"https://store.example/{next(self._numbers)}"
        self._permitted[url] = (key, piece, upload)
        return UploadPermit(digest=file, offset=piece.offset, size_bytes=piece.size_bytes, url=url)

    def open_upload(self, key: str) -> tuple[str, dict[int, int]]:
        begun = [upload for known, upload in self.parts if known == key]
        upload = begun[-1] if begun else f"u{next(self._numbers)}"
        self._begun.setdefault((key, upload), self._now)
        parts = self.parts.setdefault((key, upload), {})
        return upload, {number: len(data) for number, data in parts.items()}

    def complete(self, key: str, upload: str, digests: list[str]) -> None:
        parts = self.parts[key, upload]
        data = [parts[number] for number in sorted(parts)]
        assert [digest_of(part) for part in data] == list(digests)
        if self._create(key, b"".join(data)):
            del self.parts[key, upload]

    def digest_of(self, key: str, version: str | None) -> str:
        stored, data = self.objects[key]
        assert version in (None, stored)
        return digest_of(data)

    def remove(self, key: str) -> None:
        self.objects.pop(key, None)

    def put_manifest(self, key: str, manifest: bytes) -> tuple[ArtifactRef, bool]:
        created = self._create(key, manifest)
        data = self.objects[key][1]
        return ArtifactRef(uri=self.uri(key), digest=digest_of(data), size_bytes=len(data)), created

    def abort_unfinished(self) -> None:
        for upload, begun in list(self._begun.items()):
            if upload in self.parts and self._now - begun > timedelta(days=1):
                del self.parts[upload]

    def find_base(self, name_and_revision: str) -> BaseManifest | None:
        name, _, revision = name_and_revision.partition("@")
        read = [data for key, (_, data) in self.objects.items() if key.startswith(f"bases/{name}/")]
        bases = [base for base in map(BaseManifest.model_validate_json, read) if revision in ("", base.revision)]
        return max(bases, key=lambda each: each.imported_at, default=None)

    def base_names(self) -> list[str]:
        manifests = (data for key, (_, data) in self.objects.items() if key.startswith("bases/"))
        return sorted({BaseManifest.model_validate_json(data).name for data in manifests})
