"""Authorisation of requests by API keys. The secret is compared by its digest, in constant time."""

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
"""Limits of a key that is issued without others: more than a program mostly needs, and less than fills a gateway."""

KeyProblem = Literal[
    "no_key",
    "invalid_key",
    "key_revoked",
    "key_expired",
    "environment_not_allowed",
]


@dataclass(frozen=True)
class PresentedKey:
    """A key as a caller sends it."""

    key_id: str
    secret: str


def format_key(key_id: str, secret: str) -> str:
    """Return a key as its owner sees it, once: `sk-slipway-<id>-<secret>`, both in hexadecimal digits."""
    return f"{PREFIX}-{key_id}-{secret}"


def parse_key(text: str) -> PresentedKey | None:
    """Return the id and the secret of a key; None if the text is none."""
    match = _KEY.fullmatch(text)
    return PresentedKey(match["id"], match["secret"]) if match else None


def digest_of_secret(secret: str) -> str:
    """Return the digest that a record holds instead of a secret."""
    return digest_of(secret.encode())


def assess_key(
    presented: PresentedKey | None, record: ApiKey | None, environment: Environment, now: datetime
) -> KeyProblem | None:
    """Return why a key is not accepted in an environment; None if it is.

    An unknown key and a wrong secret give the same problem: no answer reveals which ids exist.

    Args:
        presented: the caller's key; None if it sent none or a malformed one.
        record: the record of its id; None if there is none.
        environment: environment of the request.
        now: the time.
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
    """Return the name of an account in telemetry: the same at all gateways, and no key or person."""
    return hashlib.sha256(f"caller|{name}".encode()).hexdigest()[:12]


def opens_model(record: ApiKey, model: str) -> bool:
    """Return whether a key opens a model."""
    return not record.models or model in record.models
