"""Answers upload requests: returns permits for missing bytes until every file is stored and verified."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import structlog

from contracts.facts import BaseModelRef
from contracts.manifests import FileEntry, FolderManifest
from contracts.storage.uploads import AnnouncedFile, UploadAnswer, UploadPermit, UploadRequest
from contracts.teams import Team
from contracts.vocabulary import ArtifactRef, digest_of
from decisions.access.teams import find_foreign, owner_of
from services.registry.domain import uploads as domain
from services.registry.domain.admission import Refusal
from services.registry.domain.uploads import StoredFile
from services.registry.ports import UploadStore
from shared.errors import Permanent, Transient

Sizes = Callable[[str], Awaitable[Mapping[str, int]]]
WAIT_S = 3.0
"""Seconds that a request waits for the verification of files before it is answered."""
ABORT_EVERY_S = 3600.0
"""Seconds between sweeps for unfinished uploads."""
MOST_NAMES = 10
"""Maximum base models that a refusal lists."""
READ_AT_ONCE = 2
MOST_REMEMBERED = 10_000
"""Maximum file digests that this process remembers; other files are read again."""


class Intake:
    """Lets publishers upload announced files without store credentials.

    It is stateless: the store holds the progress of an upload, so any replica answers any request.
    """

    def __init__(self, store: UploadStore, sizes: Sizes, teams: Callable[[], Sequence[Team]]) -> None:
        """Set the store, and the functions that return a model's stored bytes and the teams."""
        self._store = store
        self._sizes = sizes
        self._teams = teams
        self._contents = Contents(store)

    async def answer(self, model: str, publisher: str, request: UploadRequest) -> UploadAnswer:
        """Return an upload's state, and permits for the missing parts."""
        try:
            return await self._answer(model, publisher, request)
        except Permanent as error:
            structlog.get_logger().info("upload refused", model=model, publisher=publisher, code=error.code)
            return UploadAnswer(state="refused", code=error.code, reason=error.reason)
        except Transient as error:
            return UploadAnswer(state="later", reason=error.reason)

    async def keys(self) -> tuple[str, ...]:
        """Return the key of the only sweep, for the sweeper."""
        return ("unfinished",)

    async def sweep(self, _key: str) -> None:
        """Abort unfinished uploads: they take space and count for the quota."""
        await asyncio.to_thread(self._store.abort_unfinished)

    async def _answer(self, model: str, publisher: str, request: UploadRequest) -> UploadAnswer:
        foreign = find_foreign(publisher, model, self._teams())
        if foreign is not None:
            raise Permanent("team_mismatch", foreign)
        _refuse(domain.assess_request(request))
        about = await self._base(request.base) if request.base is not None else {}
        keys = {file.digest: domain.blob_key(model, publisher, file.digest) for file in request.files}
        unique = list({file.digest: file for file in request.files}.values())
        verifying = UploadAnswer(state="verifying", stored_bytes=domain.bytes_of(unique), **about)
        there = await self._look(unique, keys)
        if there is None:
            return verifying
        missing = [file for file in unique if file.digest not in there]
        if missing:
            await self._check_quota(model, missing, keys)
            permits, rest = await asyncio.to_thread(self._permits, missing, keys)
            if permits:
                stored = domain.bytes_of(unique) - rest
                return UploadAnswer(state="missing", permits=tuple(permits), stored_bytes=stored, **about)
            there |= await self._look(missing, keys) or {}  # completed from their parts just now
        if not await self._verify(unique, keys, there):
            return verifying
        return await self._stored(model, publisher, request, about)

    async def _base(self, name: str) -> dict[str, Any]:
        """Return the answer's fields about a base model; raise Permanent if it was not imported."""
        base = await asyncio.to_thread(self._store.find_base, name)
        if base is None:
            known = await asyncio.to_thread(self._store.base_names)
            shown = ", ".join(known[:MOST_NAMES]) + (f" and {len(known) - MOST_NAMES} more" * (len(known) > MOST_NAMES))
            reason = (
                f"The base model {name[:200]} was not imported; imported are {shown or 'none'}. An operator "
                "imports one with `slipway base import`."
            )
            raise Permanent("unknown_base", reason)
        ref = BaseModelRef(name=base.name, revision=base.revision, uri=base.folder.uri, digest=base.folder.digest)
        return {"base": ref, "architecture": base.architecture}

    async def _look(self, files: Sequence[AnnouncedFile], keys: dict[str, str]) -> dict[str, StoredFile] | None:
        """Return the stored files by digest; None while a file of unexpected size is being read.

        A file of unexpected size is removed unless its digest is as announced: then the announcement is wrong.

        Raises:
            Permanent: `digest_mismatch`: a stored file was announced with another size.
        """
        there = {}
        for file in files:
            key = keys[file.digest]
            stored = await asyncio.to_thread(self._store.find_file, key)
            if stored is not None and stored.size_bytes == file.size_bytes:
                there[file.digest] = stored
            elif stored is not None:
                reading = self._contents.read(key, stored)
                await asyncio.wait((reading,), timeout=WAIT_S)
                if not reading.done():
                    return None
                if reading.result() == file.digest:
                    reason = f"{file.path} was announced with {file.size_bytes} bytes; {file.digest} has "
                    raise Permanent("digest_mismatch", f"{reason}{stored.size_bytes}. Publish again.")
                await asyncio.to_thread(self._store.remove, key)
        return there

    async def _check_quota(self, model: str, missing: Sequence[AnnouncedFile], keys: dict[str, str]) -> None:
        """Refuse files beyond the quota of the model's team; parts of other uploads count too."""
        team = owner_of(model, self._teams())
        if team is None or team.quota.stored_bytes is None:
            return
        sizes: dict[str, int] = {}
        for name in team.models:
            sizes |= await self._sizes(name)
        counted_whole = {keys[file.digest] for file in missing}
        others = {name: size for name, size in sizes.items() if name.partition(" ")[0] not in counted_whole}
        _refuse(domain.assess_quota(team, others, domain.bytes_of(missing)))

    def _permits(self, missing: Sequence[AnnouncedFile], keys: dict[str, str]) -> tuple[list[UploadPermit], int]:
        """Return permits for missing parts, up to the limit of an answer, and the total missing bytes."""
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

    async def _verify(
        self, files: Sequence[AnnouncedFile], keys: dict[str, str], there: Mapping[str, StoredFile]
    ) -> bool:
        """Return whether all files are verified, after at most `WAIT_S` seconds; reading continues in the background.

        Raises:
            Permanent: `digest_mismatch`: a file's content differs from the announcement; it was removed.
        """
        readings = [
            (file, self._contents.read(keys[file.digest], there[file.digest])) for file in files if file.digest in there
        ]
        if readings:
            await asyncio.wait([reading for _, reading in readings], timeout=WAIT_S)
        ended = [(file, reading.result()) for file, reading in readings if reading.done()]
        for file, actual in ended:
            if actual != file.digest:
                await asyncio.to_thread(self._store.remove, keys[file.digest])
                reason = f"{file.path} was announced as {file.digest} and uploaded as {actual}; it was removed. "
                raise Permanent("digest_mismatch", f"{reason}Publish again.", found=actual)
        return len(ended) == len(files)

    async def _stored(
        self, model: str, publisher: str, request: UploadRequest, about: Mapping[str, Any]
    ) -> UploadAnswer:
        """Return the final answer; for a folder, write its manifest first."""
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
        return UploadAnswer(state="stored", stored_bytes=total, files=refs, folder=folder, **about)


class Contents:
    """Digests of stored files: each object version is read once."""

    def __init__(self, store: UploadStore) -> None:
        """Set the store."""
        self._store = store
        self._readings: dict[tuple[str, StoredFile], asyncio.Task[str]] = {}
        self._turns = asyncio.Semaphore(READ_AT_ONCE)

    def read(self, key: str, stored: StoredFile) -> "asyncio.Task[str]":
        """Return the task that digests an object, running or done; restart it if it failed."""
        reading = self._readings.get((key, stored))
        if reading is None or (reading.done() and (reading.cancelled() or reading.exception() is not None)):
            self._forget()
            reading = self._readings[key, stored] = asyncio.create_task(self._digest_of(key, stored))
            reading.add_done_callback(_note_failure)
        return reading

    def _forget(self) -> None:
        """Forget the oldest finished readings if too many are remembered."""
        if len(self._readings) >= MOST_REMEMBERED:
            ended = [finished for finished, reading in self._readings.items() if reading.done()]
            for finished in ended[: max(1, MOST_REMEMBERED // 10)]:
                del self._readings[finished]

    async def _digest_of(self, key: str, stored: StoredFile) -> str:
        async with self._turns:
            return await asyncio.to_thread(self._store.digest_of, key, stored.version)


def _note_failure(reading: "asyncio.Task[str]") -> None:
    """Log a failed reading, because the request that started it may be gone."""
    error = None if reading.cancelled() else reading.exception()
    if error is not None:
        structlog.get_logger().warning("an uploaded file could not be read", error=repr(error))


def _refuse(refusal: Refusal | None) -> None:
    if refusal is not None:
        raise Permanent(refusal.code, refusal.reason, **refusal.details)
