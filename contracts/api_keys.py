"""API keys: one record per key in the bucket `api-keys`, under the key's id; without its secret."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field, StringConstraints, model_validator

from .vocabulary import Contract, Digest, Environment, IdentityName, Instant, ModelName, StoredRecord

KEY_ID_PATTERN: Final = r"^[0-9a-f]{12}$"

KeyId = Annotated[str, StringConstraints(pattern=KEY_ID_PATTERN)]
Amount = Annotated[int, Field(ge=1, le=10**12)]


class KeyLimits(Contract):
    """The limits of an API key; None for no limit.

    Attributes:
        requests_per_minute: Average rate of admitted requests.
        tokens_per_minute: Average rate of prompt and answer tokens.
        tokens_per_month: Prompt and answer tokens in a calendar month (UTC).
    """

    requests_per_minute: Amount | None = None
    tokens_per_minute: Amount | None = None
    tokens_per_month: Amount | None = None


class ApiKey(StoredRecord):
    """A key that callers of the gateway present.

    Attributes:
        name: Its purpose or holder; not unique.
        secret_digest: SHA-256 of the secret (256 random bits: no slow hash is needed).
        models: Models that the key may call; empty for all.
        team: A key of a team may call the models of that team only; None for a key of the installation.
        environments: Environments in which the key is valid.
        evidence: Whether its requests are evidence about the versions that answer them.
        issued_by: Identity that issued the key.
        expires_at: None if it does not expire.
        revoked_at: None if it is not revoked.
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
