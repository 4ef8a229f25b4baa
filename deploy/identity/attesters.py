"""The attesters' keys in an installation's folder of keys: made, replaced, withdrawn.

`trust/attesters.json` lists the public keys with what each may attest, and nothing secret. `attestation/NAME.pem` is
the private key of a service, for that service only.
"""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import TypeAdapter

from contracts.provenance.attestations import ATTESTERS, AttesterKey
from deploy.identity.files import make_folder, write_file
from shared.provenance.envelopes import key_id, listed, public_pem

_KEYS = TypeAdapter(tuple[AttesterKey, ...])


class AttesterKeys:
    """The part of a folder of keys that signs. Its owner holds the folder's lock while it changes."""

    def __init__(self, folder: Path) -> None:
        """Use a folder of keys; `prepare` creates missing ones."""
        self._folder = folder

    @property
    def listing(self) -> Path:
        """The file with the public keys, for every verifier."""
        return self._folder / "trust" / "attesters.json"

    def private_key(self, name: str) -> Path:
        """Return the file with a service's private key."""
        return self._folder / "attestation" / f"{name}.pem"

    def entries(self) -> tuple[AttesterKey, ...]:
        """Return all listed keys, including retired and revoked ones, in order of creation."""
        return _KEYS.validate_json(self.listing.read_bytes()) if self.listing.is_file() else ()

    def prepare(self, now: datetime) -> None:
        """Create a key for each attesting service without a valid one."""
        make_folder(self.private_key("").parent)
        make_folder(self.listing.parent, mode=0o755)
        for name in ATTESTERS:
            if self._in_use(name) is None:
                self._add(name, now)

    def rotate(self, name: str, now: datetime) -> AttesterKey:
        """Create a second key for a service; signatures of the earlier one are accepted until `retire`."""
        return self._add(name, now)

    def retire(self, name: str, now: datetime) -> AttesterKey:
        """Retire all keys of a service but the one in its file; their earlier attestations stay accepted.

        Raises:
            ValueError: The service has one key only.
        """
        own = [key for key in self.entries() if key.attester == name]
        kept = self._in_use(name) or own[-1]
        retired = {key.key_id for key in own if _is_current(key)} - {kept.key_id}
        if not retired:
            raise ValueError(
                f"{name} attests with one key only: make another with `slipway keys rotate {name} --attestation` first."
            )
        self._store([_dated(key, retired_at=now) if key.key_id in retired else key for key in self.entries()])
        return kept

    def revoke(self, name: str, now: datetime) -> AttesterKey:
        """Revoke all keys of a service with their attestations, and create a new one."""
        self._store([_dated(key, revoked_at=now) if key.attester == name else key for key in self.entries()])
        return self._add(name, now)

    def _in_use(self, name: str) -> AttesterKey | None:
        """Return the listed, current key of a service's private file, or None."""
        file = self.private_key(name)
        if not file.is_file():
            return None
        try:
            private = serialization.load_pem_private_key(file.read_bytes(), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            return None
        identifier = key_id(public_pem(private.public_key()))
        own = (key for key in self.entries() if key.attester == name and key.key_id == identifier)
        return next((key for key in own if _is_current(key)), None)

    def _add(self, name: str, now: datetime) -> AttesterKey:
        private = ec.generate_private_key(ec.SECP256R1())
        made = listed(name, public_pem(private.public_key()), valid_from=now)
        self._store([*self.entries(), made])  # first: a service that signs with a key that is not listed yet is refused
        secret = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_file(self.private_key(name), secret, mode=0o600)
        return made

    def _store(self, keys: list[AttesterKey]) -> None:
        plain = [key.model_dump(mode="json") for key in keys]
        write_file(self.listing, json.dumps(plain, indent=1).encode() + b"\n")


def _is_current(key: AttesterKey) -> bool:
    return key.retired_at is None and key.revoked_at is None


def _dated(key: AttesterKey, **dates: Any) -> AttesterKey:
    """Return a key with dates set, unless set already."""
    return key.model_copy(update={name: getattr(key, name) or date for name, date in dates.items()})
