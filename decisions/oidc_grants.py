"""What the bearer of an identity provider's token may do: which grant its claims match, as the record of a key."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from pydantic import Field

from contracts.api_keys import ApiKey, KeyLimits
from contracts.vocabulary import Contract, Environment, ModelName, digest_of

_NAME: Final = "oidc"


class Grant(Contract):
    """What tokens with a claim may do.

    Attributes:
        claim: Name of the claim: of a text, or of a list of texts, such as groups.
        value: Text that it must be or contain; None for any.
        models: Models that it opens; empty for all.
        environments: Where it counts.
        limits: What each subject may ask for.
    """

    claim: Annotated[str, Field(min_length=1, max_length=200)] = "sub"
    value: Annotated[str, Field(max_length=500)] | None = None
    models: tuple[ModelName, ...] = ()
    environments: Annotated[tuple[Environment, ...], Field(min_length=1)] = ("production",)
    limits: KeyLimits = KeyLimits()


def matches(grant: Grant, claims: Mapping[str, Any]) -> bool:
    """Return whether a token's claims match a grant; a claim of another form matches nothing."""
    value = claims.get(grant.claim)
    values = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    texts = [text for text in values if isinstance(text, str)]
    return bool(texts) if grant.value is None else grant.value in texts


def account_of(issuer: str, subject: str) -> str:
    """Return under which name the usage of a subject is counted: it reveals neither of them."""
    return f"{_NAME}-{hashlib.sha256(f'{len(issuer)}:{issuer}{subject}'.encode()).hexdigest()[:40]}"


def record_of(grants: Sequence[Grant], claims: Mapping[str, Any]) -> ApiKey | None:
    """Return what a verified token may do, as the record of a key: by the first grant that it matches; None by none."""
    grant = next((grant for grant in grants if matches(grant, claims)), None)
    if grant is None:
        return None
    account = account_of(str(claims["iss"]), str(claims["sub"]))
    return ApiKey(
        key_id=account.removeprefix(f"{_NAME}-")[:12],
        name=_NAME,
        secret_digest=digest_of(b""),
        models=grant.models,
        environments=grant.environments,
        limits=grant.limits,
        issued_at=datetime(1970, 1, 1, tzinfo=UTC),
        issued_by=_NAME,
    )
