"""Text that variants were measured on: blobs named by digest in manifests, which can be erased."""

from typing import Literal

from contracts.manifests import (
    FileEntry,
    FolderManifest,
    HeldOutText,
    HeldOutWindow,
    VariantManifest,
    VersionManifest,
)
from contracts.vocabulary import ArtifactRef, canonical_json, digest_of
from shared.errors import Permanent
from shared.storage.blobs import Store, blob_key, manifest_key

_NAME = "held-out.json"


def put_held_out(store: Store, windows: tuple[HeldOutWindow, ...], prefix: str = "") -> FileEntry | None:
    """Store windows as a blob and return its entry; None without windows."""
    if not windows:
        return None
    data = canonical_json(HeldOutText(windows=windows).model_dump(mode="json"))
    return store.put_blob(memoryview(data), _NAME, prefix)


def read_held_out(store: Store, ref: ArtifactRef, manifest: VariantManifest) -> tuple[HeldOutWindow, ...]:
    """Return the windows that a variant was measured on, verified.

    Args:
        store: The object store.
        ref: The ref of the variant's manifest.
        manifest: The variant's manifest.

    Raises:
        Permanent: `artifact_not_found` if the text was erased, `digest_mismatch` if it is not what the manifest names.
        Transient: `store_unavailable`.
    """
    entry = manifest.held_out_text
    if entry is None:
        return ()
    uri = store.uri(blob_key(entry.digest, store.prefix_of(ref)))
    try:
        data = store.get(ArtifactRef(uri=uri, digest=entry.digest, size_bytes=entry.size_bytes))
    except Permanent as error:
        if error.code != "artifact_not_found":
            raise
        raise Permanent(
            "artifact_not_found",
            f"The held-out text of {ref.uri} was erased ({entry.digest}); quantise the variant again.",
        ) from error
    return HeldOutText.model_validate_json(data).windows


def erase_text(store: Store, model: str, version: int, kind: Literal["held-out", "evaluation"]) -> tuple[str, ...]:
    """Erase the text that a version was measured on; return the digests of its files, also if erased before.

    Manifests, figures and attestations stay. Other versions with the same file lose it as well.

    Args:
        store: The object store.
        model: The model.
        version: The number of the version.
        kind: `held-out`: the held-out text of its variants. `evaluation`: its evaluation set.

    Raises:
        Permanent: `artifact_not_found` for an unknown version; `digest_mismatch` if the file list of an evaluation set
            was altered, which is then left alone.
        Transient: `store_unavailable`.
    """
    data = store.find(f"versions/{model}/{version}/manifest.json")
    if data is None:
        raise Permanent("artifact_not_found", f"{model} has no version {version}.")
    erased: list[str] = []
    for registered in VersionManifest.model_validate_json(data).variants:
        variant = VariantManifest.model_validate_json(store.get(registered.manifest))
        if kind == "held-out" and erase_held_out(store, registered.manifest, variant):
            erased += [variant.held_out_text.digest] if variant.held_out_text is not None else []
        if kind == "evaluation" and variant.evaluation_digest is not None:
            erased.append(variant.evaluation_digest)
            _erase_set(store, model, variant.evaluation_digest)
    return tuple(dict.fromkeys(erased))


def _erase_set(store: Store, model: str, digest: str) -> None:
    """Erase an uploaded set of texts: the files of its folder, or its single file, under every publisher's prefix."""
    uploads = store.folders(f"checkpoints/{model}/uploads/")
    prefixes = (f"checkpoints/{model}/", *(f"{folder}/" for folder in uploads))
    files = {digest: FileEntry(path="texts.jsonl", digest=digest, size_bytes=0)}
    for prefix in prefixes:
        files |= {file.digest: file for file in _files_of(store, manifest_key("folder", digest, prefix), digest)}
    for prefix in prefixes:
        for file in files.values():
            store.erase_blob(file, prefix)


def _files_of(store: Store, key: str, digest: str) -> tuple[FileEntry, ...]:
    """Return the files in a folder's manifest; none without a manifest.

    Raises:
        Permanent: `digest_mismatch` if the manifest has another digest.
    """
    folder = store.find(key)
    if folder is None:
        return ()
    if digest_of(folder) != digest:
        raise Permanent(
            "digest_mismatch",
            f"{key} is {digest_of(folder)}: nothing that it lists is erased. Restore the object, and order again.",
        )
    return FolderManifest.model_validate_json(folder).files


def erase_held_out(store: Store, ref: ArtifactRef, manifest: VariantManifest) -> bool:
    """Erase a variant's held-out text; return whether it had any. Its figures and digests stay."""
    if manifest.held_out_text is None:
        return False
    store.erase_blob(manifest.held_out_text, store.prefix_of(ref))
    return True
