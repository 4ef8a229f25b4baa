"""Fetches the sets of texts that a checkpoint brings along."""

from pydantic import ValidationError

from contracts.manifests import FolderManifest
from contracts.vocabulary import ArtifactRef, digest_of
from shared.blobs import Store
from shared.errors import Permanent


def read_text_set(store: Store, ref: ArtifactRef) -> bytes:
    """Read JSON lines, verified: one file, or all `.jsonl` files of a folder, in the order of their names.

    Raises:
        Permanent: artifact_not_found, digest_mismatch, uri_not_allowed.
    """
    data = store.get(ref)
    try:
        files = FolderManifest.model_validate_json(data).files
    except ValidationError:
        return data
    prefix = store.prefix_of(ref)
    parts: list[bytes] = []
    for file in sorted(files, key=lambda one: one.path):
        if not file.path.endswith(".jsonl"):
            continue
        part = bytearray(file.size_bytes)
        store.read_into(file, 0, memoryview(part), prefix)
        if digest_of(bytes(part)) != file.digest:
            raise Permanent("digest_mismatch", f"{file.path} of {ref.uri} is not what was announced.")
        parts.append(bytes(part))
    return b"\n".join(parts)
