"""Checks of attestations: key, time, step and subject."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from contracts.provenance.attestations import PREDICATE_PREFIX, AttesterKey, Claim, Statement
from contracts.provenance.steps import Step

Code = Literal["attestation_missing", "signature_invalid", "key_not_trusted", "digest_mismatch"]


@dataclass(frozen=True)
class Problem:
    """Why an attestation does not count."""

    code: Code
    reason: str


def assess_key(key: AttesterKey | None, claim: Claim) -> Problem | None:
    """Return why a key's signature of a claim is not trusted; None if it is.

    Args:
        key: The listed key that signed; None if no listed key has the id.
        claim: The signed claim.
    """
    if key is None:
        return Problem("key_not_trusted", f"The {claim.step} attestation is signed by a key that is not listed.")
    name, problem = f"{key.attester}'s key {key.key_id[:16]}", None
    if key.revoked_at is not None:
        problem = f"{name} was revoked at {_time(key.revoked_at)}."
    elif claim.attester != key.attester:
        problem = f"{name} signed as {claim.attester}."
    elif claim.step not in key.steps:
        problem = f"{name} may not attest {claim.step}."
    elif claim.attested_at < key.valid_from:
        problem = f"{name} is valid from {_time(key.valid_from)}, and signed something earlier."
    elif key.retired_at is not None and claim.attested_at > key.retired_at:
        problem = f"{name} was retired at {_time(key.retired_at)}, and signed something later."
    return Problem("key_not_trusted", problem) if problem else None


def assess_allowed(key: AttesterKey, step: Step, allowed: Collection[str]) -> Problem | None:
    """Return why a version's policy does not permit a key to attest a step; None if it does.

    Args:
        key: A listed key that may attest the step.
        step: The step.
        allowed: Permitted services and full key ids; empty for all listed keys.
    """
    if not allowed or key.attester in allowed or key.key_id in allowed:
        return None
    reason = f"{key.attester}'s key {key.key_id[:16]} may not attest {step} of this version; its policy names "
    return Problem("key_not_trusted", f"{reason}{', '.join(key_id[:63] for key_id in sorted(allowed))}.")


def assess_statement(statement: Statement, *, step: Step, digest: str) -> Problem | None:
    """Return why a statement does not attest a step of an artifact; None if it does."""
    claim = statement.predicate
    if claim.step != step or statement.predicate_type != predicate_type(step):
        return Problem("signature_invalid", f"It attests {claim.step} ({statement.predicate_type}), not {step}.")
    if digest not in statement.digests:
        about = ", ".join(statement.digests) or "nothing"
        return Problem("digest_mismatch", f"It is about {about}, not about {digest}.")
    return None


def assess_link(claim: Claim, *, number: int, previous: str | None) -> Problem | None:
    """Return why a claim does not follow the envelope `previous` in its chain; None if it does."""
    if claim.number != number:
        return Problem("digest_mismatch", f"It is number {claim.number} of its chain, stored as number {number}.")
    if claim.previous != previous:
        return Problem("digest_mismatch", f"It follows {claim.previous or 'nothing'}, the one before is {previous}.")
    return None


def predicate_type(step: Step) -> str:
    """Return the type of a step's predicate."""
    return f"{PREDICATE_PREFIX}{step}:v1"


def trust_epoch(keys: Iterable[AttesterKey], step: Step) -> int:
    """Return the number of revoked keys that may attest a step."""
    return sum(key.revoked_at is not None and step in key.steps for key in keys)


def find_key(keys: Iterable[AttesterKey], key_id: str) -> AttesterKey | None:
    """Return the key with this id; None without one."""
    return next((key for key in keys if key.key_id == key_id), None)


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
