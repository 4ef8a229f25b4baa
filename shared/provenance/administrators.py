"""Signs rollbacks for gateways with an administrator's key, and opens those that a listed key signed (Ed25519)."""

import base64
import binascii
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import TypeAdapter, ValidationError

from contracts.codes import Code
from contracts.gateway_rollbacks import Administrator, GatewayRollback, SignedGatewayRollback
from contracts.identities import Credential
from contracts.vocabulary import canonical_json

_LISTED: Final = TypeAdapter(tuple[Administrator, ...])
_PREFIX: Final = b"\xffslipway.gateway-rollback.v1\n"
"""What is signed begins with a byte that no UTF-8 text has: the same key also signs texts that a bus chooses, when it
connects, and none of them may be an order."""


@dataclass(frozen=True)
class NotTrusted:
    """Why an order is not known to be an administrator's."""

    code: Code
    reason: str


def sign_rollback(order: GatewayRollback, credential: Credential) -> SignedGatewayRollback:
    """Return an order, signed with the key in an administrator's credential."""
    import nkeys  # not for every program that verifies

    payload = canonical_json(order.model_dump(mode="json"))
    pair = nkeys.from_seed(bytearray(credential.seed.get_secret_value().encode()))
    return SignedGatewayRollback(
        payload=payload.decode(),
        public_key=pair.public_key.decode(),
        signature=base64.b64encode(pair.sign(_PREFIX + payload)).decode(),
    )


class Administrators:
    """The listed administrators, read again at every use: a key that was withdrawn a moment ago no longer counts."""

    def __init__(self, path: Path | None) -> None:
        """Take the file `trust/administrators.json` of a folder of keys; None: no administrator is known."""
        self.path = path

    def open(self, signed: SignedGatewayRollback) -> GatewayRollback | NotTrusted:
        """Return an order if the administrator that it names signed it; else why not."""
        known = self._listed()
        if isinstance(known, NotTrusted):
            return known
        owner = next((administrator for administrator in known if signed.public_key in administrator.public_keys), None)
        if owner is None:
            reason = f"The key {signed.public_key} is not that of an administrator here (`slipway keys list`)."
            return NotTrusted("key_not_trusted", reason)
        try:
            Ed25519PublicKey.from_public_bytes(key_bytes(signed.public_key)).verify(
                base64.b64decode(signed.signature), _PREFIX + signed.payload.encode()
            )
            order = GatewayRollback.model_validate_json(signed.payload)
        except (InvalidSignature, binascii.Error, UnicodeEncodeError):
            return NotTrusted("signature_invalid", f"The order is not what {owner.name} signed.")
        except ValidationError as error:
            return NotTrusted(
                "malformed_event", f"{owner.name} signed no order of this version: {error.errors()[0]['msg']}."
            )
        if order.administrator != owner.name:
            reason = f"The order is said to be {order.administrator}'s and signed with the key of {owner.name}."
            return NotTrusted("signature_invalid", reason)
        return order

    def _listed(self) -> tuple[Administrator, ...] | NotTrusted:
        if self.path is None:
            reason = (
                "SLIPWAY_ADMINISTRATORS is not set here: name trust/administrators.json of the folder that "
                "`slipway keys init` makes."
            )
            return NotTrusted("key_not_trusted", reason)
        try:
            return _LISTED.validate_json(self.path.read_bytes())
        except (OSError, ValidationError) as error:
            return NotTrusted("key_not_trusted", f"The list of administrators, {self.path}, cannot be read: {error}.")


def key_bytes(key: str) -> bytes:
    """Return the 32 bytes of a public key from its text: base32 of a prefix, the bytes and a checksum."""
    return base64.b32decode(key)[1:33]
