"""Attests rehearsals in the object store, and reads signed policies from it."""

import asyncio
import functools
from collections.abc import Callable

from contracts.manifests import RehearsalRecord
from contracts.vocabulary import digest_of
from services.rollback_controller.controller import SERVICE
from shared.errors import Permanent, Transient
from shared.provenance.attestations import Chain
from shared.provenance.envelopes import Attester, Subjects, Trust
from shared.provenance.signed_versions import SignedPolicy, read_policy
from shared.runtime.clock import Clock
from shared.runtime.settings import Connection
from shared.storage.blobs import Store, manifest_bytes


def proofs_by_settings(connection: Connection, clock: Clock) -> "StoredProofs":
    """Return the proofs in the store of the settings.

    Their methods raise Transient `key_not_trusted` while keys or the store's certificate are unreadable.
    """

    def opened() -> tuple[Store, Attester, Trust]:
        try:
            attester = Attester.from_settings(connection, SERVICE, clock)
            return Store(connection), attester, Trust.from_settings(connection)
        except (ValueError, OSError) as error:
            raise Transient("key_not_trusted", f"{error} Rollbacks go on without it.") from error

    return StoredProofs(opened)


class StoredProofs:
    """Attestations in the store (implements `ports.Proofs`).

    Store and keys are opened at first use, because rollbacks need neither.
    """

    def __init__(self, opened: Callable[[], tuple[Store, Attester, Trust]]) -> None:
        self._opened = functools.cache(opened)

    async def attest_rehearsal(self, record: RehearsalRecord) -> None:
        """Append a rehearsal's outcome to the version's attestations; idempotent."""
        await asyncio.to_thread(self._attest, record)

    def _attest(self, record: RehearsalRecord) -> None:
        store, attester, _ = self._opened()
        target, release = record.target, record.completed.release_id
        name = f"{release}-{digest_of(manifest_bytes(record)).removeprefix('sha256:')[:12]}"
        key = f"versions/{target.model}/{target.version}/rehearsals/{name}.json"
        ref, created = store.put_manifest(key, record)
        if not created and RehearsalRecord.model_validate_json(store.get(ref)) != record:
            raise Permanent("digest_mismatch", f"{ref.uri} is another rehearsal, and no other is attested.")
        triggers = ", ".join(certificate.trigger for certificate in record.completed.certificates)
        details = {"target": str(target), "verdict": record.completed.verdict, "triggers": triggers}
        chain = Chain(store, target.model, target.version)
        chain.append(attester, "rehearse", Subjects(named={ref.uri: ref.digest}), details)

    async def policy(self, model: str, version: int) -> SignedPolicy | str:
        """Return a version's signed policy; else a sentence with the reason."""
        try:
            return await asyncio.to_thread(self._policy, model, version)
        except Transient as error:
            return error.reason

    def _policy(self, model: str, version: int) -> SignedPolicy | str:
        store, _, trust = self._opened()
        return read_policy(store, trust, model, version)
