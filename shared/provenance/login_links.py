"""Sign-in requests for the console, signed with the person's key (Ed25519) and verified."""

import base64
import binascii
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import ValidationError

from contracts.identities import Credential
from contracts.vocabulary import Contract, IdentityName, Instant, canonical_json

VALID: Final = timedelta(minutes=10)
"""Lifetime of a sign-in link, which works once."""
LONGEST: Final = 2048
_PREFIX: Final = b"\xffslipway.console-login.v1\n"
"""Begins with a byte that is invalid in UTF-8: the same key also signs nonces that a bus chooses as text."""


class Login(Contract):
    """A request to sign in.

    Attributes:
        audience: The address of the console, the only one that accepts the request.
        nonce: Makes each request unique.
    """

    name: IdentityName
    audience: str
    expires_at: Instant
    nonce: str


@dataclass(frozen=True)
class NotAccepted:
    """Why a link does not sign in."""

    reason: str


def login_link(console: str, credential: Credential, now: datetime) -> str:
    """Return a link that signs a person in at a console once, within `VALID`."""
    import nkeys  # not for every program that verifies

    login = Login(name=credential.name, audience=console, expires_at=now + VALID, nonce=secrets.token_urlsafe(18))
    payload = canonical_json(login.model_dump(mode="json"))
    pair = nkeys.from_seed(bytearray(credential.seed.get_secret_value().encode()))
    return f"{console}/login?token={_text(payload)}.{_text(pair.sign(_PREFIX + payload))}"


def open_login(
    token: str, audience: str, public_keys: Callable[[str], Sequence[str]], now: datetime
) -> Login | NotAccepted:
    """Return the request in a token if its person signed it for this console within `VALID`, else the reason.

    Args:
        token: The token of the link.
        audience: The address of this console.
        public_keys: Returns the keys of a person; empty for an unknown name.
        now: The time.
    """
    payload_text, _, signature_text = token.partition(".")
    try:
        if len(token) > LONGEST:
            return NotAccepted("the link is not one of `slipway open`")
        payload, signature = _bytes(payload_text), _bytes(signature_text)
        login = Login.model_validate_json(payload)
    except (binascii.Error, ValueError, ValidationError):
        return NotAccepted("the link is not one of `slipway open`")
    if not any(_signed(key, payload, signature) for key in public_keys(login.name)):
        return NotAccepted("no key of that name signed the link")
    if login.audience != audience:
        return NotAccepted(f"the link is for {login.audience}, and this is {audience}")
    if not now < login.expires_at <= now + 2 * VALID:
        return NotAccepted("the link has expired: `slipway open` makes a new one")
    return login


def named_in(token: str) -> str:
    """Return the person's name in a token, unverified; empty if it cannot be read."""
    try:
        return Login.model_validate_json(_bytes(token.partition(".")[0])).name if len(token) <= LONGEST else ""
    except (binascii.Error, ValueError, ValidationError):
        return ""


def _signed(public_key: str, payload: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key_bytes(public_key)).verify(signature, _PREFIX + payload)
    except (InvalidSignature, ValueError):
        return False
    return True


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def key_bytes(key: str) -> bytes:
    """Return the 32 bytes of a public key from its text: base32 of a prefix, the bytes and a checksum."""
    return base64.b32decode(key)[1:33]
