"""Keys of the API: the records in the bucket `api-keys`, one per key, under its id. No record holds a secret."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field, StringConstraints, model_validator

from .vocabulary import Contract, Digest, Environment, IdentityName, Instant, ModelName, StoredRecord

KEY_ID_PATTERN: Final = r"^[0-9a-f]{12}$"

KeyId = Annotated[str, StringConstraints(pattern=KEY_ID_PATTERN)]
Amount = Annotated[int, Field(ge=1, le=10**12)]


class KeyLimits(Contract):
    """The limits of a key's bearer; None for no limit.

    Attributes:
        requests_per_minute: Requests that are admitted, in each minute on average.
        tokens_per_minute: Tokens of prompts and answers, in each minute on average.
        tokens_per_month: Tokens of prompts and answers in each calendar month (UTC).
    """

    requests_per_minute: Amount | None = None
    tokens_per_minute: Amount | None = None
    tokens_per_month: Amount | None = None


class ApiKey(StoredRecord):
    """A key that callers of the gateway present.

    Attributes:
        name: What it is for, or whose it is; several keys may have the same.
        secret_digest: SHA-256 of the secret, which is 256 random bits, so that no slow hash is needed.
        models: Models that it opens; empty for all.
        team: Its team, whose models it opens at most; None for a key of the installation.
        environments: Where it counts.
        limits: What its bearer may ask for.
        evidence: Whether its requests are evidence about the versions that answer them.
        issued_at: When it was issued.
        issued_by: Who issued it.
        expires_at: When it ends; None for never.
        revoked_at: When it was withdrawn; None if it was not.
    """

    key_id: KeyId
    name: IdentityName
    secret_digest: Digest
    models: tuple[ModelName, ...] = ()
    team: IdentityName | None = None
    environments: Annotated[tuple[Environment, ...], Field(min_length=1)] = ("production",)
    limits: KeyLimits = KeyLimits()
    evidence: bool = True
    issued_at: Instant
    issued_by: Annotated[str, Field(min_length=1, max_length=200)]
    expires_at: Instant | None = None
    revoked_at: Instant | None = None

    @model_validator(mode="after")
    def _ends_after_its_begin(self) -> ApiKey:
        if self.expires_at is not None and self.expires_at <= self.issued_at:
            raise ValueError("a key expires after it was issued")
        return self
