"""Attests rehearsals in the object store, and verifies what production can be rolled back to."""

import asyncio

from contracts.manifests import RehearsalRecord
from contracts.routes import ServedTarget
from contracts.vocabulary import Deployable, Digest, digest_of
from decisions.releases.provenance import Problem
from services.rollback_controller.controller import SERVICE
from shared.errors import Permanent, Transient
from shared.provenance.attestations import Chain
from shared.provenance.envelopes import Attester, Subjects, Trust
from shared.provenance.signed_policies import SignedPolicy, read_policy
from shared.provenance.target_check import check_target
from shared.runtime.clock import Clock
from shared.runtime.settings import Connection
from shared.storage.blobs import Store, manifest_bytes


class ProofsBySettings:
    """Proofs in the store that the settings name (implements `ports.Proofs`).

    Store and keys are opened at first use: a rollback needs none of them, so this service starts without.
    """

    def __init__(self, connection: Connection, clock: Clock) -> None:
        """Take the settings, and read nothing yet."""
        self._connection, self._clock = connection, clock
        self._opened: StoredProofs | None = None

    async def attest_rehearsal(self, record: RehearsalRecord) -> None:
        """Append the outcome of a rehearsal to the version's attestations, once."""
        await self._proofs().attest_rehearsal(record)

    async def trust_digest(self) -> Digest:
        """Return a digest that changes when the list of keys does."""
        return await self._proofs().trust_digest()

    async def assess(self, served: ServedTarget) -> Problem | None:
        """Return why a target is not proven; None if it is."""
        return await self._proofs().assess(served)

    async def policy(self, model: str, version: int) -> SignedPolicy | str:
        """Return the policy that is signed with a version; a sentence that says why it cannot be read else."""
        try:
            return await self._proofs().policy(model, version)
        except Transient as error:
            return error.reason

    def _proofs(self) -> "StoredProofs":
        """Return the proofs, opened once.

        Raises:
            Transient: `key_not_trusted` while a key, the list of keys or the store's certificate cannot be read.
        """
        if self._opened is None:
            try:
                attester = Attester.from_settings(self._connection, SERVICE, self._clock)
                trust = Trust.from_settings(self._connection)
                self._opened = StoredProofs(Store(self._connection), attester, trust)
            except (ValueError, OSError) as error:
                raise Transient("key_not_trusted", f"{error} Rollbacks go on without it.") from error
        return self._opened


class StoredProofs:
    """Attestations in the store (implements `ports.Proofs`)."""

    def __init__(self, store: Store, attester: Attester, trust: Trust) -> None:
        self._store, self._attester, self._trust = store, attester, trust

    async def attest_rehearsal(self, record: RehearsalRecord) -> None:
        """Append the outcome of a rehearsal to the version's attestations, once."""
        await asyncio.to_thread(self._attest, record)

    def _attest(self, record: RehearsalRecord) -> None:
        target, release = record.target, record.completed.release_id
        name = f"{release}-{digest_of(manifest_bytes(record)).removeprefix('sha256:')[:12]}"
        key = f"versions/{target.model}/{target.version}/rehearsals/{name}.json"
        ref, created = self._store.put_manifest(key, record)
        if not created and RehearsalRecord.model_validate_json(self._store.get(ref)) != record:
            raise Permanent("digest_mismatch", f"{ref.uri} is another rehearsal, and no other is attested.")
        triggers = ", ".join(certificate.trigger for certificate in record.completed.certificates)
        details = {"target": str(target), "verdict": record.completed.verdict, "triggers": triggers}
        chain = Chain(self._store, target.model, target.version)
        chain.append(self._attester, "rehearse", Subjects(named={ref.uri: ref.digest}), details)

    async def trust_digest(self) -> Digest:
        """Return a digest that changes when the list of keys does."""
        return await asyncio.to_thread(self._trust_digest)

    def _trust_digest(self) -> Digest:
        try:
            return digest_of(self._trust.path.read_bytes())
        except OSError:
            return digest_of(b"")

    async def assess(self, served: ServedTarget) -> Problem | None:
        """Return why a target is not proven; None if it is."""
        deployable = Deployable(**{name: getattr(served, name) for name in Deployable.model_fields})
        return await asyncio.to_thread(self._assess, deployable)

    def _assess(self, deployable: Deployable) -> Problem | None:
        try:
            keys = self._trust.keys()
        except Permanent as error:
            return Problem("key_not_trusted", error.reason)
        return check_target(self._store, keys, deployable)

    async def policy(self, model: str, version: int) -> SignedPolicy | str:
        """Return the policy that is signed with a version; a sentence that says why it cannot be read else."""
        return await asyncio.to_thread(read_policy, self._store, self._trust, model, version)
