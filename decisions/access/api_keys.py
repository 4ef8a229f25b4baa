"""Authorisation of requests by API keys."""

import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from contracts.api_keys import ApiKey, KeyLimits
from contracts.vocabulary import Environment, digest_of

PREFIX: Final = "sk-slipway"
SECRET_BYTES: Final = 32
ID_BYTES: Final = 6
_KEY: Final = re.compile(rf"{PREFIX}-(?P<id>[0-9a-f]{{12}})-(?P<secret>[0-9a-f]{{64}})")

DEFAULT_LIMITS: Final = KeyLimits(requests_per_minute=6_000)
"""Default limits of an issued key: above the need of most programs, below the capacity of a gateway."""

KeyProblem = Literal[
    "no_key",
    "invalid_key",
    "key_revoked",
    "key_expired",
    "environment_not_allowed",
]


@dataclass(frozen=True)
class PresentedKey:
    """The id and the secret of a key that a caller sent."""

    key_id: str
    secret: str


def format_key(key_id: str, secret: str) -> str:
    """Return a key in the form that callers send: `sk-slipway-<id>-<secret>`, in hexadecimal digits."""
    return f"{PREFIX}-{key_id}-{secret}"


def parse_key(text: str) -> PresentedKey | None:
    """Parse a key; None if the text has another form."""
    match = _KEY.fullmatch(text)
    return PresentedKey(match["id"], match["secret"]) if match else None


def digest_of_secret(secret: str) -> str:
    """Return the digest of a secret, as stored in its record."""
    return digest_of(secret.encode())


def assess_key(
    presented: PresentedKey | None, record: ApiKey | None, environment: Environment, now: datetime
) -> KeyProblem | None:
    """Return why a key is refused in an environment; None if it is accepted.

    Unknown ids and wrong secrets have the same problem, so that answers do not reveal ids. Digests of secrets are
    compared in constant time.

    Args:
        presented: The caller's key; None if missing or malformed.
        record: The record with its id; None if there is none.
        environment: Environment of the request.
        now: The time.
    """
    if presented is None:
        return "no_key"
    stored = record.secret_digest if record is not None else digest_of(b"")
    same = hmac.compare_digest(digest_of_secret(presented.secret), stored)
    if record is None or not same or record.key_id != presented.key_id:
        return "invalid_key"
    if record.revoked_at is not None:
        return "key_revoked"
    if record.expires_at is not None and now >= record.expires_at:
        return "key_expired"
    return None if environment in record.environments else "environment_not_allowed"


def pseudonym(name: str) -> str:
    """Return the pseudonym of an account in telemetry, the same at all gateways."""
    return hashlib.sha256(f"caller|{name}".encode()).hexdigest()[:12]


def opens_model(record: ApiKey, model: str) -> bool:
    """Return whether a key may call a model."""
    return not record.models or model in record.models
