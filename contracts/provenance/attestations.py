"""Attestations of artifacts (in-toto statements), and the keys of attesters."""

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
"""The attesting service of each step."""
ATTESTERS: Final = tuple(dict.fromkeys(ATTESTED_BY.values()))

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_PREFIX: Final = "urn:slipway:attestation:"
BASE_IMPORT: Final = "base import"
"""Name of the material of a registration with the base model's import record."""


class Subject(Contract):
    """The subject of a statement; `digest` maps algorithms (`sha256`) to hexadecimal digests."""

    name: str
    digest: Annotated[dict[str, str], Field(min_length=1)]


class Material(Contract):
    """An input of the subject."""

    name: str
    digest: Digest
    uri: str = ""


class Claim(Contract):
    """The predicate of a statement about a subject.

    Attributes:
        attester: The signing service.
        attested_at: Time of the signature by the attester's clock.
        materials: Inputs of the subject.
        follows: Digests of the envelopes that attest materials.
        previous: Digest of the previous envelope in a version's chain; None for the first, and outside a chain.
        number: Position in the chain, from 1; 0 outside a chain.
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
    """An in-toto statement (v1) with a claim as its predicate."""

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
        key_id: Hexadecimal SHA-256 of the public key's PEM text.
        public_key: ECDSA key (P-256) as PEM text.
        steps: Steps that the key may attest.
        valid_from: Attestations with an earlier time are refused.
        retired_at: Time of the replacement; attestations with a later time are refused.
        revoked_at: Time of the revocation; all attestations of the key are refused.
    """

    attester: IdentityName
    key_id: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    public_key: str
    steps: tuple[Step, ...]
    valid_from: Instant
    retired_at: Instant | None = None
    revoked_at: Instant | None = None
