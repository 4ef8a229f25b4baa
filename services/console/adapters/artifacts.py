"""Reads attestations and model cards of versions, and drift reports of alerts, from the store."""

from typing import Final

from contracts.manifests import FolderManifest
from contracts.vocabulary import digest_of
from decisions.releases.model_cards import render_card
from services.console.domain.version_screen import Proof, Proofs
from services.console.ports import Artifacts
from shared.errors import Permanent, Transient
from shared.provenance.envelopes import Trust
from shared.provenance.verification import Verification
from shared.provenance.version_history import read_version_history
from shared.runtime.settings import Connection
from shared.storage.blobs import Store, manifest_key

REPORT: Final = "report.html"
LARGEST_REPORT: Final = 32 * 1024 * 1024
EVIDENCE: Final = "manifests/drift/"


def artifacts_of(connection: Connection) -> Artifacts:
    """Return the reader of the store; without store credentials, all its reads raise Transient.

    Raises:
        ValueError: The settings name no file of attesters' keys.
    """
    if connection.s3_credentials is None:
        return NoArtifacts()
    return StoredArtifacts(Store(connection), Trust.from_settings(connection))


class NoArtifacts:
    """Replaces the store in a console without store credentials; all other pages work."""

    def prove(self, model: str, version: int) -> Proofs:
        """Raise Transient: the console has no store credentials."""
        raise self._missing(f"what is proven of {model} v{version}")

    def report(self, uri: str) -> bytes | None:
        """Raise Transient: the console has no store credentials."""
        raise self._missing(uri)

    @staticmethod
    def _missing(what: str) -> Transient:
        reason = f"The console cannot read {what}: it has no key of the store. Set SLIPWAY_S3_CREDENTIALS."
        return Transient("store_unavailable", reason)


class StoredArtifacts:
    """Reads the store with the console's own credentials.

    Args:
        store: The store.
        trust: Keys of attesters.
    """

    def __init__(self, store: Store, trust: Trust) -> None:
        self._store, self._trust = store, trust

    def prove(self, model: str, version: int) -> Proofs:
        """Verify a version's lineage, without reading weights; return the findings and the model card.

        Raises:
            Permanent: The version is not registered, or no attesters' keys can be read.
            Transient: The store does not answer.
        """
        keys = self._trust.keys()
        findings = Verification(self._store, keys, read_files=False).version(model, version)
        proofs = tuple(Proof(what=finding.what, verdict=finding.verdict, detail=finding.detail) for finding in findings)
        problem, card = "", ""
        try:
            history = read_version_history(self._store, keys, model, version)
            card = render_card(history) if history is not None else ""
        except Permanent as error:
            problem = error.sentence()
        verified = not problem and all(proof.verdict != "failed" for proof in proofs)
        return Proofs(proofs=proofs, verified=verified, card=card, problem=problem)

    def report(self, uri: str) -> bytes | None:
        """Return the HTML report in an alert's evidence; None if there is none.

        Raises:
            Permanent: The stored bytes do not match their digest, or the report exceeds 32 MiB.
            Transient: The store does not answer.
        """
        key = self._store.key_of(uri)
        if not key.startswith(EVIDENCE):
            return None
        data = self._store.find(key)
        if data is None:
            return None
        manifest = FolderManifest.model_validate_json(data)
        if key != manifest_key("drift", digest_of(manifest.to_bytes())):
            raise Permanent("digest_mismatch", f"{uri} is not what was stored there.")
        file = next((file for file in manifest.files if file.path == REPORT), None)
        if file is None:
            return None
        if file.size_bytes > LARGEST_REPORT:
            raise Permanent("too_large", f"The report has {file.size_bytes} bytes; the limit is {LARGEST_REPORT}.")
        content = bytearray(file.size_bytes)
        self._store.read_into(file, 0, memoryview(content))
        if digest_of(bytes(content)) != file.digest:
            raise Permanent("digest_mismatch", f"The report of {uri} is not what was stored there.")
        return bytes(content)
