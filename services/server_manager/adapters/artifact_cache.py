"""Local cache of artifacts: a folder per manifest, downloaded from the object store and verified by digest."""

import asyncio
import hashlib
import json
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Protocol

from pydantic import TypeAdapter, ValidationError

from contracts.facts import Weights
from contracts.manifests import FileEntry, FolderManifest
from contracts.storage.sources import scheme_of
from contracts.vocabulary import ArtifactRef, Deployable, Digest
from decisions.checkpoints.adapters import ADAPTER_CONFIG
from decisions.releases.provenance import Problem
from services.server_manager.domain.description import DESCRIBING_FILES, Description, describe_model
from services.server_manager.ports import ADAPTER, Parts
from shared.errors import Permanent, SlipwayError, Transient, translate
from shared.storage.blobs import SOURCES, Store, manifest_key

_FILES = TypeAdapter(tuple[FileEntry, ...])
_PARTIAL = "partial-"
_TEXTS = ".texts"
"""Suffix of a folder with only the describing files, and perhaps a LoRA."""
_LORA_FILES = frozenset({ADAPTER_CONFIG, "adapter_model.safetensors"})
_MAX_TEXT_BYTES = 32 * 1024 * 1024


class TargetCheck(Protocol):
    """Verifies the attestations of targets."""

    def verify(self, deployable: Deployable) -> None:
        """Raise Permanent unless a target may be loaded."""

    def assess_traffic(self, deployable: Deployable) -> Problem | None:
        """Return why a target may not take traffic; None if it may."""


class ArtifactCache:
    """Keeps `<root>/<hex manifest digest>/` for each target (implements `ports.Artifacts`)."""

    def __init__(self, store: Store, root: Path, *, check: TargetCheck, max_model_len: int | None = None) -> None:
        """Set the store, the cache folder, the verifier, and the engine's longest context in tokens."""
        self._store = store
        self._check = check
        self._root = root.absolute()
        self._max_model_len = max_model_len
        self._locks: dict[Digest, asyncio.Lock] = {}

    def folder(self, digest: Digest) -> Path:
        """Return the folder path of a manifest, existing or not."""
        return self._root / digest.removeprefix("sha256:")

    async def materialise(self, deployable: Deployable, parts: Parts = "all") -> Path:
        """Verify a target's attestations, then return a folder with the requested parts of its files.

        An existing folder is verified again, by digest.
        """
        digest = deployable.manifest.digest
        async with self._locks.setdefault(digest, asyncio.Lock()):
            try:
                await asyncio.to_thread(self._check.verify, deployable)
                return await asyncio.to_thread(self._materialise, deployable, parts)
            except (OSError, Transient) as error:
                raise self._explain(error) or error from error

    def _explain(self, error: Exception) -> SlipwayError | None:
        """Return the SlipwayError for an error, with the folder if the disk is full; None if unknown."""
        known = translate(error)
        if known is None or known.code != "disk_full":
            return known
        return Transient("disk_full", f"{known.reason.removesuffix('.')}: {self._root} holds what Triton loads.")

    async def assess_traffic(self, deployable: Deployable) -> Problem | None:
        """Return why a target may not take traffic; None if all required attestations exist."""
        return await asyncio.to_thread(self._check.assess_traffic, deployable)

    async def describe(self, deployable: Deployable) -> Description:
        """Return the description of a materialised target; raise Permanent if its files are invalid."""
        folder = self.folder(deployable.manifest.digest)
        if not folder.is_dir():
            folder = folder.with_name(folder.name + _TEXTS)
        try:
            texts = await asyncio.to_thread(read_texts, folder)
            own = deployable.serving.context_tokens if deployable.serving is not None else None
            return describe_model(texts, max_model_len=own or self._max_model_len)
        except ValueError as error:
            reason = f"{deployable.target} cannot be described: {error}. Correct its tokenizer files."
            raise Permanent("malformed_event", reason) from error

    async def keep_only(self, digests: Collection[Digest]) -> None:
        """Remove the folders of all other manifests, and interrupted downloads."""
        kept = {digest.removeprefix("sha256:") for digest in digests}
        busy = {digest.removeprefix("sha256:") for digest, lock in self._locks.items() if lock.locked()}
        await asyncio.to_thread(self._remove, kept | busy)

    def _remove(self, kept: Collection[str]) -> None:
        if not self._root.is_dir():
            return
        for folder in self._root.iterdir():
            if folder.name.removeprefix(_PARTIAL).removesuffix(_TEXTS) not in kept:
                shutil.rmtree(folder, ignore_errors=True)

    def _materialise(self, deployable: Deployable, parts: Parts) -> Path:
        target = self.folder(deployable.manifest.digest)
        files, prefix = self._files_of(deployable.manifest)
        lora, lora_prefix = self._lora_of(deployable.manifest) if parts == "adapter" else ((), "")
        if parts != "all":
            target = target.with_name(target.name + _TEXTS)
            files = [file for file in files if file.path in DESCRIBING_FILES]
        if target.is_dir():
            if is_intact(target, [*files, *lora]):
                return target
            shutil.rmtree(target)
        partial = self._root / f"{_PARTIAL}{target.name}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            self._store.fetch_files(files, partial, prefix)
            if lora:
                self._store.fetch_files(lora, partial, lora_prefix)
            partial.replace(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return target

    def _lora_of(self, manifest: ArtifactRef) -> tuple[Sequence[FileEntry], str]:
        """Return the files of a variant's LoRA, below `ADAPTER`, and their store prefix; empty without a LoRA."""
        merged = self._parse(manifest).get("merged")
        weights = self._parse(ArtifactRef.model_validate(merged)).get("weights") if merged is not None else None
        if weights is None or (lora := Weights.model_validate(weights)).kind != "lora":
            return (), ""
        ref = lora.ref
        if scheme_of(ref.uri) is not None:  # the merger copied it to the store
            ref = ref.model_copy(update={"uri": self._store.uri(manifest_key("folder", ref.digest, SOURCES))})
        files, prefix = self._files_of(ref)
        lora_files = [file for file in files if file.path in _LORA_FILES]
        return [file.model_copy(update={"path": f"{ADAPTER}/{file.path}"}) for file in lora_files], prefix

    def _files_of(self, manifest: ArtifactRef) -> tuple[Sequence[FileEntry], str]:
        """Return a manifest's files and their store prefix; follows a base's reference to its folder manifest."""
        content = self._parse(manifest)
        if "files" not in content and "folder" in content:
            manifest = ArtifactRef.model_validate(content["folder"])
            content = self._parse(manifest)
        try:
            files = _FILES.validate_python(content.get("files"))
            FolderManifest(files=files)
        except ValidationError as error:
            raise Permanent("malformed_event", f"{manifest.uri} does not list files: {error}.") from error
        return files, self._store.prefix_of(manifest)

    def _parse(self, manifest: ArtifactRef) -> dict[str, Any]:
        data = self._store.get(manifest)
        try:
            content = json.loads(data)
        except ValueError as error:
            raise Permanent("malformed_event", f"{manifest.uri} is not JSON: {error}.") from error
        if not isinstance(content, dict):
            raise Permanent("malformed_event", f"{manifest.uri} is not a manifest.")
        return content


def is_intact(folder: Path, files: Sequence[FileEntry]) -> bool:
    """Return whether a folder holds exactly these files, by digest."""
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    if present != {file.path for file in files}:
        return False
    for file in files:
        with (folder / file.path).open("rb") as stream:
            if f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}" != file.digest:
                return False
    return True


def read_texts(folder: Path) -> dict[str, str]:
    """Return the `DESCRIBING_FILES` of a folder, content by name; raise ValueError if one is too large."""
    texts = {}
    for path in (folder / name for name in DESCRIBING_FILES):
        if not path.is_file():
            continue
        if path.stat().st_size > _MAX_TEXT_BYTES:
            msg = f"{path.name} has {path.stat().st_size:,} bytes; the limit is {_MAX_TEXT_BYTES:,}"
            raise ValueError(msg)
        texts[path.name] = path.read_text(encoding="utf-8")
    return texts
