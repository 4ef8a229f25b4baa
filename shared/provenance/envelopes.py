"""DSSE envelopes of statements: signed and verified with ECDSA P-256 (securesystemslib)."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import structlog
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from pydantic import TypeAdapter, ValidationError
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import CryptoSigner, SSlibKey  # type: ignore[attr-defined]  # it lists no exports

from contracts.provenance.attestations import (
    ATTESTED_BY,
    PAYLOAD_TYPE,
    AttesterKey,
    Claim,
    Material,
    Statement,
    Subject,
)
from contracts.provenance.steps import STEPS, Step
from contracts.vocabulary import canonical_json, digest_of
from decisions.releases.provenance import Problem, assess_key, find_key, predicate_type
from shared.errors import Permanent
from shared.runtime.clock import Clock
from shared.runtime.settings import Connection

_KEYS = TypeAdapter(tuple[AttesterKey, ...])


@dataclass(frozen=True)
class Subjects:
    """The subjects of a claim, and its inputs.

    Attributes:
        named: Digests of the subjects by name.
        materials: Digests of the inputs.
        follows: Digests of the envelopes of earlier attestations.
        previous: Digest of the previous envelope in a version's chain, if any.
        number: Number in that chain.
    """

    named: dict[str, str] = field(default_factory=dict)
    materials: tuple[Material, ...] = ()
    follows: tuple[str, ...] = ()
    previous: str | None = None
    number: int = 0


@dataclass(frozen=True)
class Signed:
    """An envelope with a valid signature by a listed key that may attest its content."""

    statement: Statement
    key: AttesterKey
    digest: str

    @property
    def claim(self) -> Claim:
        """Return the claim of the statement."""
        return self.statement.predicate


class Attester:
    """Signs with the key of one service."""

    def __init__(self, name: str, private_key: bytes, clock: Clock) -> None:
        """Take a service's private key (PEM).

        Raises:
            ValueError: It is no private key on the curve P-256.
        """
        key = serialization.load_pem_private_key(private_key, password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ValueError(  # noqa: TRY004 - the file is wrong, not a type in the program
                f"the attestation key of {name} is no ECDSA key on the curve P-256: make it with `slipway keys init`"
            )
        self.name = name
        self.public_key = public_pem(key.public_key())
        self.key_id = key_id(self.public_key)
        self._clock = clock
        self._signer = CryptoSigner(key, _public(self.key_id, self.public_key))

    @classmethod
    def from_settings(cls, connection: Connection, service: str, clock: Clock) -> "Attester":
        """Return the attester of a service with the key in its settings.

        Raises:
            ValueError: The key is not set, or cannot be read.
        """
        path = connection.attestation_key
        if path is None:
            raise ValueError(
                f"SLIPWAY_ATTESTATION_KEY is not set: {service} signs what it makes. `slipway keys init` makes "
                f"attestation/{service}.pem in the folder of keys."
            )
        try:
            return cls(service, path.read_bytes(), clock)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"SLIPWAY_ATTESTATION_KEY names {path}, which is no readable attestation key: {error}"
            ) from error

    def listed(self) -> AttesterKey:
        """Return this key as an always valid list entry, to recognise its own signatures."""
        return listed(self.name, self.public_key, valid_from=datetime.min.replace(tzinfo=UTC))

    def signed(self, envelope: bytes) -> bool:
        """Return whether an envelope is signed by this key."""
        return isinstance(open_envelope(envelope, (self.listed(),)), Signed)

    def sign(self, step: Step, about: Subjects, details: dict[str, object] | None = None) -> bytes:
        """Return the signed envelope of a statement."""
        claim = Claim(
            step=step,
            attester=self.name,
            attested_at=self._clock.now(),
            materials=about.materials,
            follows=about.follows,
            previous=about.previous,
            number=about.number,
            details=details or {},
        )
        statement = Statement(
            subject=tuple(
                Subject(name=name, digest={"sha256": digest.removeprefix("sha256:")})
                for name, digest in about.named.items()
            ),
            predicate_type=predicate_type(step),
            predicate=claim,
        )
        payload = canonical_json(statement.model_dump(mode="json", by_alias=True))
        return self.envelope(payload)

    def envelope(self, payload: bytes) -> bytes:
        """Return the signed envelope of an in-toto statement."""
        envelope = Envelope(payload, PAYLOAD_TYPE, {})
        envelope.sign(self._signer)
        return canonical_json(envelope.to_dict())


class Trust:
    """The listed keys of attesters, read at every use, so that a revocation takes effect at once."""

    def __init__(self, path: Path) -> None:
        """Use the file `trust/attesters.json` of a folder of keys."""
        self.path = path

    @classmethod
    def from_settings(cls, connection: Connection) -> "Trust":
        """Return the list of keys in the settings.

        Raises:
            ValueError: The list is not set, or cannot be read.
        """
        if connection.attesters is None:
            raise ValueError(
                "SLIPWAY_ATTESTERS is not set: name trust/attesters.json in the folder that `slipway keys init` makes."
            )
        trust = cls(connection.attesters)
        try:
            trust.keys()
        except Permanent as error:
            raise ValueError(error.reason) from error
        return trust

    def keys(self) -> tuple[AttesterKey, ...]:
        """Return the listed keys.

        Raises:
            Permanent: `key_not_trusted` if the file cannot be read.
        """
        try:
            return _KEYS.validate_json(self.path.read_bytes())
        except (OSError, ValidationError) as error:
            raise Permanent(
                "key_not_trusted", f"The list of attesters' keys, {self.path}, cannot be read: {error}."
            ) from error

    def known(self) -> tuple[AttesterKey, ...]:
        """Return the listed keys; none if the file cannot be read, with a warning."""
        try:
            return self.keys()
        except Permanent as error:
            structlog.get_logger().warning("no key is trusted", why=error.reason)
            return ()


def listed(name: str, public_key: str, **dates: object) -> AttesterKey:
    """Return the list entry of a key, with the steps that its service attests."""
    steps = tuple(step for step in STEPS if ATTESTED_BY[step] == name)
    return AttesterKey.model_validate(
        {"attester": name, "key_id": key_id(public_key), "public_key": public_key, "steps": steps, **dates}
    )


def open_envelope(data: bytes, keys: Iterable[AttesterKey]) -> Signed | Problem:
    """Return an envelope's statement if an authorised key signed it; else the problem."""
    envelope = _parse_envelope(data)
    if envelope is None:
        return Problem("signature_invalid", "It is no DSSE envelope of one in-toto statement, as Slipway writes it.")
    (identifier,) = envelope.signatures
    key = find_key(keys, identifier)
    if key is None:
        return Problem("key_not_trusted", f"It is signed by the key {identifier[:16]}, which is not listed.")
    if not is_signed(data, key):
        return Problem("signature_invalid", f"The signature of {key.attester}'s key {key.key_id[:16]} does not hold.")
    try:
        statement = Statement.model_validate_json(envelope.payload)
    except ValidationError as error:
        return Problem("signature_invalid", f"It is no statement of Slipway: {error.errors()[0]['msg']}.")
    return assess_key(key, statement.predicate) or Signed(statement, key, digest_of(data))


def is_signed(data: bytes, key: AttesterKey) -> bool:
    """Return whether bytes are an envelope with a valid signature of a key; the key's permissions are not checked."""
    envelope = _parse_envelope(data)
    if envelope is None or key.key_id not in envelope.signatures:
        return False
    try:
        _public(key.key_id, key.public_key).verify_signature(envelope.signatures[key.key_id], envelope.pae())
    except (UnverifiedSignatureError, ValueError):
        return False
    return True


def _parse_envelope(data: bytes) -> Envelope | None:
    """Return an envelope with one signature; None unless the bytes are exactly Slipway's encoding."""
    try:
        envelope = Envelope.from_dict(json.loads(data))
        exact = canonical_json(envelope.to_dict()) == data
    except Exception:  # noqa: BLE001 - bytes of any kind: whatever fails, it is no envelope
        return None
    return envelope if exact and len(envelope.signatures) == 1 and envelope.payload_type == PAYLOAD_TYPE else None


def key_id(public_key: str) -> str:
    """Return the id of a public key (PEM): its SHA-256, as in the OpenSSF model signing format."""
    return hashlib.sha256(public_key.encode()).hexdigest()


def _public(identifier: str, pem: str) -> SSlibKey:
    return SSlibKey(identifier, "ecdsa", "ecdsa-sha2-nistp256", {"public": pem})


def public_pem(key: PublicKeyTypes) -> str:
    """Return a public key in PEM, as in key lists."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
