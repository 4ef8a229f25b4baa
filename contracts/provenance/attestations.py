"""Attestations of artifacts as in-toto statements, and the keys that may sign them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from ..vocabulary import Contract, Digest, IdentityName, Instant
from .steps import Step

ATTESTED_BY: Final[Mapping[Step, str]] = {
    "merge": "merger",
    "quantise": "quantiser",
    "register": "registry",
    "benchmark": "benchmarker",
    "evaluate": "evaluator",
    "rehearse": "rollback-controller",
    "approve": "registry",
    "deploy": "registry",
    "audit": "registry",
}
"""The service whose key attests a step."""
ATTESTERS: Final = tuple(dict.fromkeys(ATTESTED_BY.values()))

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_PREFIX: Final = "urn:slipway:attestation:"
BASE_IMPORT: Final = "base import"
"""The material of a registration that is the record of the base model's import."""


class Subject(Contract):
    """The subject of a statement: a name, and its digests by algorithm (`sha256`, in hexadecimal)."""

    name: str
    digest: Annotated[dict[str, str], Field(min_length=1)]


class Material(Contract):
    """An artifact that went into the subject."""

    name: str
    digest: Digest
    uri: str = ""


class Claim(Contract):
    """The predicate of a statement about a subject.

    Attributes:
        attester: The service that signs.
        attested_at: When it signed, by its own clock.
        materials: What went into the subject.
        follows: Digests of the attestations of materials: of their envelopes, as they are stored.
        previous: Digest of the envelope before this one in the chain of a version; None for the first, and outside one.
        number: Position in that chain, from 1; 0 outside one.
        details: Figures of the step, such as a verdict.
    """

    step: Step
    attester: IdentityName
    attested_at: Instant
    materials: tuple[Material, ...] = ()
    follows: tuple[Digest, ...] = ()
    previous: Digest | None = None
    number: Annotated[int, Field(ge=0)] = 0
    details: dict[str, Any] = {}


class Statement(Contract):
    """An in-toto statement (v1) with one of our claims."""

    type_: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")] = STATEMENT_TYPE
    subject: Annotated[tuple[Subject, ...], Field(min_length=1)]
    predicate_type: Annotated[str, Field(alias="predicateType")]
    predicate: Claim

    @property
    def digests(self) -> tuple[str, ...]:
        """Return the digests of all subjects, as `sha256:<hex>`."""
        return tuple(f"sha256:{subject.digest['sha256']}" for subject in self.subject if "sha256" in subject.digest)


class AttesterKey(Contract):
    """A public key of an attester.

    Attributes:
        key_id: SHA-256 of the public key's PEM text, in hexadecimal.
        public_key: The key (ECDSA, P-256) as PEM text.
        steps: What it may attest.
        valid_from: Attestations that claim to be older are not accepted.
        retired_at: Since when it is replaced; what it attested before stays accepted.
        revoked_at: Since when it is not trusted any more; nothing that it signed is accepted, whatever its time.
    """

    attester: IdentityName
    key_id: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    public_key: str
    steps: tuple[Step, ...]
    valid_from: Instant
    retired_at: Instant | None = None
    revoked_at: Instant | None = None
