"""Fetches the sets of texts that a checkpoint brings along."""

from pydantic import ValidationError

from contracts.manifests import FolderManifest
from contracts.vocabulary import ArtifactRef, digest_of
from shared.errors import Permanent
from shared.storage.blobs import Store
from shared.storage.objects import WHOLE_BYTES


def read_text_set(store: Store, ref: ArtifactRef) -> bytes:
    """Read JSON lines, verified: one file, or all `.jsonl` files of a folder, in the order of their names.

    Raises:
        Permanent: artifact_not_found, also when it is larger than WHOLE_BYTES; digest_mismatch, uri_not_allowed.
    """
    data = store.get(ref)
    try:
        files = FolderManifest.model_validate_json(data).files
    except ValidationError:
        return data
    prefix = store.prefix_of(ref)
    texts = sorted((file for file in files if file.path.endswith(".jsonl")), key=lambda file: file.path)
    if sum(file.size_bytes for file in texts) > WHOLE_BYTES:
        reason = f"The texts in {ref.uri} are more than {WHOLE_BYTES >> 20} MiB; take a smaller sample."
        raise Permanent("artifact_not_found", reason)
    parts: list[bytes] = []
    for file in texts:
        part = bytearray(file.size_bytes)
        store.read_into(file, 0, memoryview(part), prefix)
        parts.append(bytes(part))
        if digest_of(parts[-1]) != file.digest:
            raise Permanent("digest_mismatch", f"{file.path} of {ref.uri} is not what was announced.")
    return b"\n".join(parts)
