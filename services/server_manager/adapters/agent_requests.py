"""Signed requests to an engine's agent, as gRPC metadata, by server-manager's NATS key (nkeys, Ed25519)."""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import TypeAdapter, ValidationError

from contracts.codes import Code
from contracts.identities import Identity
from contracts.vocabulary import canonical_json
from services.server_manager.domain.fencing import AgentRequest

REQUEST: Final = "slipway-request-bin"
KEY: Final = "slipway-key"
SIGNATURE: Final = "slipway-signature-bin"
INSTANCE: Final = "slipway-instance"
"""Metadata of an answer: id of the agent's run."""
TERM: Final = "slipway-term"
"""Metadata of a refusal: the higher term."""
FROM: Final = "slipway-from"
"""Metadata that marks an error as the engine's."""
METHODS: Final = {
    name: f"/inference.GRPCInferenceService/{name}"
    for name in ("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload")
}
"""Full names of the forwarded methods, by Triton's short names."""
HEALTH: Final = "/grpc.health.v1.Health/Check"
"""gRPC's health protocol, without authentication: the agent answers that it serves."""
_PREFIX: Final = b"\xffslipway.agent-request.v1\n"
"""Separates requests from NATS nonces signed with the same key: no UTF-8 text begins with this byte."""
_LISTED: Final = TypeAdapter(tuple[Identity, ...])

Metadata = tuple[tuple[str, str | bytes], ...]


class NotAccepted(Exception):  # noqa: N818 - an answer to the caller
    """A request without a valid signature by server-manager."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(f"{code}: {reason}")


def digest(content: bytes) -> str:
    """Return the hexadecimal SHA-256 of a request's bytes."""
    return hashlib.sha256(content).hexdigest()


class Signer:
    """Signs requests as server-manager."""

    def __init__(self, seed: str) -> None:
        """Set the seed of server-manager's NATS key."""
        import nkeys  # not in the agent

        self._pair = nkeys.from_seed(bytearray(seed.encode()))

    def sign(self, request: AgentRequest) -> Metadata:
        """Return the signed metadata of a request."""
        payload = canonical_json(request.model_dump(mode="json"))
        return (
            (REQUEST, payload),
            (KEY, self._pair.public_key.decode()),
            (SIGNATURE, self._pair.sign(_PREFIX + payload)),
        )


class Managers:
    """Server-manager's public keys, read at every use, so that a withdrawn key is refused at once."""

    def __init__(self, path: Path) -> None:
        """Set the file: `trust/managers.json` of a folder of keys."""
        self._path = path

    def open(self, metadata: Mapping[str, str | bytes]) -> AgentRequest:
        """Return the request in signed metadata.

        Raises:
            NotAccepted: `key_not_trusted` or `signature_invalid`.
        """
        payload, key, signature = metadata.get(REQUEST), metadata.get(KEY), metadata.get(SIGNATURE)
        if not (isinstance(payload, bytes) and isinstance(key, str) and isinstance(signature, bytes)):
            raise NotAccepted("signature_invalid", "The request is not signed; ask through server-manager.")
        if key not in self._listed():
            raise NotAccepted("key_not_trusted", f"The key {key[:80]!r} is not server-manager's (`slipway keys list`).")
        try:
            raw = base64.b32decode(key)[1:33]  # a prefix, the key, and a checksum
            Ed25519PublicKey.from_public_bytes(raw).verify(signature, _PREFIX + payload)
            return AgentRequest.model_validate_json(payload)
        except (InvalidSignature, binascii.Error, ValidationError) as error:
            raise NotAccepted("signature_invalid", "The request is not what server-manager signed.") from error

    def _listed(self) -> frozenset[str]:
        try:
            listed = _LISTED.validate_json(self._path.read_bytes())
        except (OSError, ValidationError) as error:
            reason = f"The list of managers, {self._path}, cannot be read ({error}): write it with `slipway keys init`."
            raise NotAccepted("key_not_trusted", reason) from error
        return frozenset(key for manager in listed for key in manager.public_keys)
