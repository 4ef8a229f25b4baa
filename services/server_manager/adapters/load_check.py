"""Admits only targets with valid attestations to be loaded, and stores which were admitted."""

import json
import threading
from pathlib import Path

import structlog

from contracts.provenance.attestations import AttesterKey
from contracts.vocabulary import Deployable, Digest, digest_of
from decisions.releases.provenance import Problem
from services.server_manager.adapters.repository_files import replace_file
from services.server_manager.adapters.traffic_check import check_traffic
from shared.errors import Permanent
from shared.provenance.envelopes import Trust
from shared.provenance.signed_versions import check_target
from shared.storage.blobs import Store


class LoadCheck:
    """Verifies targets before any file is downloaded (implements `artifact_cache.TargetCheck`).

    A target proven once may be loaded again even if its keys are revoked: a revocation blocks new targets, but must
    not remove a serving one when its engine restarts.
    """

    def __init__(self, store: Store, trust: Trust, repository: Path) -> None:
        """Set the store, the trusted keys, and the model repository, where verdicts are stored."""
        self._store, self._trust = store, trust
        self._path = repository / "slipway-proven.json"
        self._keeping = threading.Lock()

    def verify(self, deployable: Deployable) -> None:
        """Verify that a target may be loaded.

        Raises:
            Permanent: `attestation_missing`, `signature_invalid`, `key_not_trusted` or `digest_mismatch`.
            Transient: `store_unavailable`.
        """
        name, digest = str(deployable.target), _digest_of(deployable)
        problem = self._check(deployable)
        if problem is None:
            self._keep(name, digest)
        elif self._kept().get(name) == digest:
            structlog.get_logger().error(
                "target is not proven any more, and is loaded again", target=name, code=problem.code, why=problem.reason
            )
        else:
            raise Permanent(problem.code, f"it is not proven: {problem.reason}")

    def assess_traffic(self, deployable: Deployable) -> Problem | None:
        """Return why a target may not take traffic (a required attestation is missing or invalid); else None.

        Unlike `verify`, earlier verdicts do not count: after a revocation a target gets no new traffic.

        Raises:
            Transient: `store_unavailable`.
        """
        keys = self._keys()
        return keys if isinstance(keys, Problem) else check_traffic(self._store, keys, deployable)

    def _check(self, deployable: Deployable) -> Problem | None:
        keys = self._keys()
        return keys if isinstance(keys, Problem) else check_target(self._store, keys, deployable)

    def _keys(self) -> tuple[AttesterKey, ...] | Problem:
        try:
            return self._trust.keys()
        except Permanent as error:  # unreadable list: nothing new is proven
            return Problem("key_not_trusted", error.reason)

    def _kept(self) -> dict[str, Digest]:
        """Return the proven digests (`_digest_of`) by target; empty if the file is damaged."""
        try:
            kept = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        return kept if isinstance(kept, dict) else {}

    def _keep(self, name: str, digest: Digest) -> None:
        """Store that a target is proven; thread-safe."""
        with self._keeping:
            kept = self._kept()
            if kept.get(name) == digest:
                return
            try:
                replace_file(self._path, json.dumps({**kept, name: digest}).encode())
            except OSError as error:
                structlog.get_logger().warning("a verdict could not be kept", path=str(self._path), error=repr(error))


def _digest_of(deployable: Deployable) -> Digest:
    """Return the digest over a target's manifest and serving settings."""
    settings = "" if deployable.serving is None else deployable.serving.model_dump_json()
    return digest_of(f"{deployable.manifest.digest} {settings}".encode())
