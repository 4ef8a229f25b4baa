"""Signatures of a folder's files in the OpenSSF model signing format (`model_signing verify`)."""

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

from contracts.manifests import FileEntry
from contracts.provenance.attestations import STATEMENT_TYPE, AttesterKey
from contracts.vocabulary import canonical_json
from decisions.releases.provenance import Problem, find_key
from shared.provenance.envelopes import Attester, is_signed

PREDICATE_TYPE: Final = "https://model_signing/signature/v1.0"
MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"


def signature_key(model: str, version: int, variant: str) -> str:
    """Return the key of the signature of a variant's files."""
    return f"versions/{model}/{version}/{variant}.sig"


def sign_files(attester: Attester, name: str, files: Sequence[FileEntry]) -> bytes:
    """Return the bundle that signs the names and digests of files, for `model_signing verify key`."""
    envelope = json.loads(attester.envelope(canonical_json(_statement(name, files))))
    material = {"publicKey": {"hint": attester.key_id}, "tlogEntries": []}
    return canonical_json({"mediaType": MEDIA_TYPE, "verificationMaterial": material, "dsseEnvelope": envelope})


def assess_signature(data: bytes, keys: Iterable[AttesterKey], name: str, files: Sequence[FileEntry]) -> Problem | None:
    """Return why a bundle is no signature of exactly these files by a registration key; None if it is."""
    try:
        bundle: dict[str, Any] = json.loads(data)
        envelope = bundle["dsseEnvelope"]
        payload = base64.b64decode(envelope["payload"])
        key = find_key(keys, bundle["verificationMaterial"]["publicKey"]["hint"])
    except (ValueError, KeyError, TypeError) as error:
        return Problem("signature_invalid", f"It is no bundle with a DSSE envelope: {type(error).__name__}.")
    if key is None or key.revoked_at is not None or "register" not in key.steps:
        return Problem("key_not_trusted", "It is signed by a key that is not listed for registrations, or was revoked.")
    if canonical_json(bundle) != data or not is_signed(canonical_json(envelope), key):
        return Problem("signature_invalid", f"The signature of {key.attester}'s key {key.key_id[:16]} does not hold.")
    if payload != canonical_json(_statement(name, files)):
        return Problem("digest_mismatch", "It signs other files than the manifest of the variant names.")
    return None


def _statement(name: str, files: Sequence[FileEntry]) -> dict[str, Any]:
    ordered = sorted(files, key=lambda file: file.path)
    digests = [file.digest.removeprefix("sha256:") for file in ordered]
    root = hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": root}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False},
            "resources": [
                {"name": file.path, "algorithm": "sha256", "digest": digest}
                for file, digest in zip(ordered, digests, strict=True)
            ],
        },
    }
