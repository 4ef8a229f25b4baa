"""Held-out text of variants: a blob that their manifests name, and that can be erased."""

from contracts.manifests import FileEntry, HeldOutText, HeldOutWindow, VariantManifest
from contracts.vocabulary import ArtifactRef, canonical_json
from shared.errors import Permanent
from shared.storage.blobs import Store, blob_key

_NAME = "held-out.json"


def put_held_out(store: Store, windows: tuple[HeldOutWindow, ...], prefix: str = "") -> FileEntry | None:
    """Store windows as a blob and return its entry; None if there are none."""
    if not windows:
        return None
    data = canonical_json(HeldOutText(windows=windows).model_dump(mode="json"))
    return store.put_blob(memoryview(data), _NAME, prefix)


def read_held_out(store: Store, ref: ArtifactRef, manifest: VariantManifest) -> tuple[HeldOutWindow, ...]:
    """Return the windows that a variant was measured on, verified; those in the manifest itself if it is an older one.

    Args:
        store: Where they are stored.
        ref: The ref of the manifest, whose blobs are stored under the same prefix.
        manifest: The variant's manifest.

    Raises:
        Permanent: `artifact_not_found` if the text was erased, `digest_mismatch` if it is not what the manifest names.
        Transient: `store_unavailable`.
    """
    entry = manifest.held_out_text
    if entry is None:
        return manifest.held_out
    uri = store.uri(blob_key(entry.digest, store.prefix_of(ref)))
    try:
        data = store.get(ArtifactRef(uri=uri, digest=entry.digest, size_bytes=entry.size_bytes))
    except Permanent as error:
        if error.code != "artifact_not_found":
            raise
        reason = f"The held-out text of {ref.uri} was erased ({entry.digest}); quantise the variant again."
        raise Permanent("artifact_not_found", reason) from error
    return HeldOutText.model_validate_json(data).windows


def erase_held_out(store: Store, ref: ArtifactRef, manifest: VariantManifest) -> bool:
    """Erase the text that a variant was measured on; return whether it had one. Its figures and digests stay.

    What an older manifest contains itself cannot be erased.
    """
    if manifest.held_out_text is None:
        return False
    store.erase_blob(manifest.held_out_text, store.prefix_of(ref))
    return True
