"""A local folder per manifest, filled from the object store and verified byte for byte."""

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
"""Ending of a folder that has only what describes the model."""
_LORA_FILES = frozenset({ADAPTER_CONFIG, "adapter_model.safetensors"})
_MAX_TEXT_BYTES = 32 * 1024 * 1024


class TargetCheck(Protocol):
    """Knows which targets are proven."""

    def verify(self, deployable: Deployable) -> None:
        """Raise Permanent unless a target may be loaded."""

    def assess_traffic(self, deployable: Deployable) -> Problem | None:
        """Return why a target may not take traffic; None if it may."""


class ArtifactCache:
    """Keeps `<root>/<hex of the manifest's digest>/` for every target that is or may soon be loaded."""

    def __init__(self, store: Store, root: Path, *, check: TargetCheck, max_model_len: int | None = None) -> None:
        """Set the source of artifacts, the folder of copies, and the list of proven targets."""
        self._store = store
        self._check = check
        self._root = root.absolute()
        self._max_model_len = max_model_len
        self._locks: dict[Digest, asyncio.Lock] = {}

    def folder(self, digest: Digest) -> Path:
        """Return the folder of a manifest, whether it exists or not."""
        return self._root / digest.removeprefix("sha256:")

    async def materialise(self, deployable: Deployable, parts: Parts = "all") -> Path:
        """Return a folder with the files of a target that may be loaded, or with these parts of them.

        What is there already is verified again.
        """
        digest = deployable.manifest.digest
        async with self._locks.setdefault(digest, asyncio.Lock()):
            try:
                await asyncio.to_thread(self._check.verify, deployable)
                return await asyncio.to_thread(self._materialise, deployable, parts)
            except (OSError, Transient) as error:
                raise self._explain(error) or error from error

    def _explain(self, error: Exception) -> SlipwayError | None:
        """Return an error as one of ours, which names the folder that is full; None for an unknown one."""
        known = translate(error)
        if known is None or known.code != "disk_full":
            return known
        return Transient("disk_full", f"{known.reason.removesuffix('.')}: {self._root} holds what Triton loads.")

    async def assess_traffic(self, deployable: Deployable) -> Problem | None:
        """Return why a target may not take traffic; None if everything that its version requires is attested."""
        return await asyncio.to_thread(self._check.assess_traffic, deployable)

    async def describe(self, deployable: Deployable) -> Description:
        """Return the description of a materialised target for gateways; raise Permanent if its files lack it."""
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
        """Remove the folders of every other manifest, and interrupted downloads."""
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
        """Return the files of the LoRA that a variant was made of, below `ADAPTER`; none of any other model."""
        merged = self._parse(manifest).get("merged")
        weights = self._parse(ArtifactRef.model_validate(merged)).get("weights") if merged is not None else None
        if weights is None or (lora := Weights.model_validate(weights)).kind != "lora":
            return (), ""
        ref = lora.ref
        if scheme_of(ref.uri) is not None:  # the merger brought it into the store
            ref = ref.model_copy(update={"uri": self._store.uri(manifest_key("folder", ref.digest, SOURCES))})
        files, prefix = self._files_of(ref)
        lora_files = [file for file in files if file.path in _LORA_FILES]
        return [file.model_copy(update={"path": f"{ADAPTER}/{file.path}"}) for file in lora_files], prefix

    def _files_of(self, manifest: ArtifactRef) -> tuple[Sequence[FileEntry], str]:
        """Read which files a manifest names; the manifest of a base points at the manifest of its folder."""
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
    """Return whether a folder holds exactly these files, byte for byte."""
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    if present != {file.path for file in files}:
        return False
    for file in files:
        with (folder / file.path).open("rb") as stream:
            if f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}" != file.digest:
                return False
    return True


def read_texts(folder: Path) -> dict[str, str]:
    """Return the texts of a folder that describe its model; raise ValueError if one is too long."""
    texts = {}
    for path in (folder / name for name in DESCRIBING_FILES):
        if not path.is_file():
            continue
        if path.stat().st_size > _MAX_TEXT_BYTES:
            msg = f"{path.name} has {path.stat().st_size:,} bytes; the limit is {_MAX_TEXT_BYTES:,}"
            raise ValueError(msg)
        texts[path.name] = path.read_text(encoding="utf-8")
    return texts
