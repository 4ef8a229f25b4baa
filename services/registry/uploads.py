"""Answers requests for uploads: which bytes are missing and how they are sent, until all is stored and verified."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog

from contracts.facts import BaseModelRef
from contracts.manifests import FileEntry, FolderManifest
from contracts.teams import Team
from contracts.uploads import AnnouncedFile, UploadAnswer, UploadPermit, UploadRequest
from contracts.vocabulary import ArtifactRef, digest_of
from decisions.teams import find_foreign, owner_of
from services.registry.domain import uploads as domain
from services.registry.domain.admission import Refusal
from services.registry.ports import UploadStore
from shared.errors import Permanent, Transient

Sizes = Callable[[str], Awaitable[Mapping[str, int]]]
WAIT_S = 3.0
"""Seconds that a request waits for files to be verified before it is answered."""
VERIFIED_AT_ONCE = 2
MOST_VERIFIED = 10_000
"""Files that this process remembers to be what was announced; others are read again."""


class Intake:
    """Lets publishers upload what they announce, without a key of the store.

    It keeps nothing: what is in the store says how far an upload is, so any replica answers any request.
    """

    def __init__(self, store: UploadStore, sizes: Sizes, teams: Callable[[], Sequence[Team]]) -> None:
        """Take the store, what returns the bytes that are stored of a model, and what returns the teams."""
        self._store = store
        self._sizes = sizes
        self._teams = teams
        self._verified: dict[str, str] = {}
        self._verifying: dict[str, asyncio.Task[str]] = {}
        self._turns = asyncio.Semaphore(VERIFIED_AT_ONCE)

    async def answer(self, model: str, publisher: str, request: UploadRequest) -> UploadAnswer:
        """Return how far an upload is, and what its publisher is to send."""
        try:
            return await self._answer(model, publisher, request)
        except Permanent as error:
            structlog.get_logger().info("upload refused", model=model, publisher=publisher, code=error.code)
            return UploadAnswer(state="refused", code=error.code, reason=error.reason)
        except Transient as error:
            return UploadAnswer(state="later", reason=error.reason)

    async def _answer(self, model: str, publisher: str, request: UploadRequest) -> UploadAnswer:
        foreign = find_foreign(publisher, model, self._teams())
        if foreign is not None:
            raise Permanent("team_mismatch", foreign)
        _refuse(domain.assess_request(request))
        base = await self._base(request.base) if request.base is not None else None
        keys = {file.digest: domain.blob_key(model, publisher, file.digest) for file in request.files}
        unique = list({file.digest: file for file in request.files}.values())
        missing = [file for file in unique if not await self._is_there(keys[file.digest], file)]
        if missing:
            await self._check_quota(model, domain.bytes_of(missing))
            permits, rest = await asyncio.to_thread(self._permits, missing, keys)
            if permits:
                stored = domain.bytes_of(unique) - rest
                return UploadAnswer(state="missing", permits=tuple(permits), stored_bytes=stored, base=base)
        if not await self._verify(unique, keys):
            return UploadAnswer(state="verifying", stored_bytes=domain.bytes_of(unique), base=base)
        return await self._stored(model, publisher, request, base)

    async def _base(self, name: str) -> BaseModelRef:
        base = await asyncio.to_thread(self._store.find_base, name)
        if base is None:
            reason = f"The base model {name[:200]} was not imported: ask operations to run `slipway base import`."
            raise Permanent("unknown_base", reason)
        return base

    async def _is_there(self, key: str, file: AnnouncedFile) -> bool:
        """Return whether an object with the announced size is there; one of another size is removed."""
        if self._verified.get(key) == file.digest:
            return True
        size = await asyncio.to_thread(self._store.size_of, key)
        if size is not None and size != file.size_bytes:
            await asyncio.to_thread(self._store.remove, key)
            return False
        return size is not None

    async def _check_quota(self, model: str, needed: int) -> None:
        team = owner_of(model, self._teams())
        if team is None or team.quota.stored_bytes is None:
            return
        sizes: dict[str, int] = {}
        for each in team.models:
            sizes |= await self._sizes(each)
        _refuse(domain.assess_quota(team, sizes, needed))

    def _permits(self, missing: Sequence[AnnouncedFile], keys: dict[str, str]) -> tuple[list[UploadPermit], int]:
        """Return permits for what is missing, as many as one answer holds, and the bytes that are missing in all."""
        permits: list[UploadPermit] = []
        rest = 0
        for file in missing:
            key, upload = keys[file.digest], None
            pieces = [domain.whole(file)]
            if file.parts:
                upload, arrived = self._store.open_upload(key)
                pieces = domain.missing_parts(file, arrived)
                if not pieces:
                    self._store.complete(key, upload, file.parts)
            rest += sum(piece.size_bytes for piece in pieces)
            left = domain.MOST_PERMITS - len(permits)
            permits += [self._store.permit(key, file.digest, piece, upload) for piece in pieces[:left]]
        return permits, rest

    async def _verify(self, files: Sequence[AnnouncedFile], keys: dict[str, str]) -> bool:
        """Return whether all files are verified; files that are not are being read, and waited for a moment.

        Raises:
            Permanent: `digest_mismatch`: a file has other content than announced; it was removed.
        """
        waited = []
        for file in files:
            key = keys[file.digest]
            if self._verified.get(key) != file.digest:
                task = self._verifying.get(key)
                if task is None:
                    task = self._verifying[key] = asyncio.create_task(self._read(key))
                waited.append((file, key, task))
        if not waited:
            return True
        await asyncio.wait([task for _, _, task in waited], timeout=WAIT_S)
        for file, key, task in waited:
            if task.done():
                self._verifying.pop(key, None)
                await self._note(file, key, task.result())
        return all(task.done() for _, _, task in waited)

    async def _read(self, key: str) -> str:
        async with self._turns:
            return await asyncio.to_thread(self._store.digest_of, key)

    async def _note(self, file: AnnouncedFile, key: str, actual: str) -> None:
        if actual != file.digest:
            await asyncio.to_thread(self._store.remove, key)
            reason = (
                f"{file.path} was announced as {file.digest} and uploaded as {actual}; it was removed. Publish again."
            )
            raise Permanent("digest_mismatch", reason, found=actual)
        while len(self._verified) >= MOST_VERIFIED:
            del self._verified[next(iter(self._verified))]
        self._verified[key] = actual

    async def _stored(
        self, model: str, publisher: str, request: UploadRequest, base: BaseModelRef | None
    ) -> UploadAnswer:
        """Return where all is stored; of a folder the manifest is written now, which commits it."""
        refs = tuple(
            ArtifactRef(
                uri=self._store.uri(domain.blob_key(model, publisher, file.digest)),
                digest=file.digest,
                size_bytes=file.size_bytes,
            )
            for file in request.files
        )
        folder = None
        if request.folder:
            entries = (FileEntry.model_validate(file.model_dump(exclude={"parts"})) for file in request.files)
            data = FolderManifest(files=tuple(entries)).to_bytes()
            key = domain.folder_key(model, publisher, digest_of(data))
            folder, created = await asyncio.to_thread(self._store.put_manifest, key, data)
            if created:
                structlog.get_logger().info("checkpoint uploaded", model=model, publisher=publisher, folder=folder.uri)
        total = sum(ref.size_bytes for ref in refs)
        return UploadAnswer(state="stored", stored_bytes=total, files=refs, folder=folder, base=base)


def _refuse(refusal: Refusal | None) -> None:
    if refusal is not None:
        raise Permanent(refusal.code, refusal.reason, **refusal.details)
