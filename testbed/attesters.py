"""Keys of attesters for services that run without the embedded stack."""

from datetime import UTC, datetime
from pathlib import Path

from contracts.provenance.attestations import ATTESTERS
from deploy.identity.attesters import AttesterKeys
from shared.provenance.envelopes import Attester, Trust
from shared.runtime.clock import Clock, SystemClock

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
"""Tests with clocks of their own attest at any time."""


def attester_keys(folder: Path) -> AttesterKeys:
    """Return the keys of all attesters in a folder, made if they are missing."""
    keys = AttesterKeys(folder / "keys")
    keys.private_key("").parent.mkdir(parents=True, exist_ok=True)
    keys.prepare(LONG_AGO)
    return keys


def attester(folder: Path, name: str, clock: Clock | None = None) -> Attester:
    """Return a service's attester with its key in a folder."""
    return Attester(name, attester_keys(folder).private_key(name).read_bytes(), clock or SystemClock())


def trust(folder: Path) -> Trust:
    """Return the listed keys in a folder."""
    return Trust(attester_keys(folder).listing)


def attester_variables(folder: Path, module: str) -> dict[str, str]:
    """Return the variables that give a service's program (`services.merger.main`) its key and the listed ones."""
    keys = attester_keys(folder)
    service = next((name for name in ATTESTERS if name.replace("-", "_") in module), None)
    private = {"SLIPWAY_ATTESTATION_KEY": str(keys.private_key(service))} if service else {}
    return {"SLIPWAY_ATTESTERS": str(keys.listing), **private}
