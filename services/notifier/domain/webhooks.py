"""Signatures of Standard Webhooks (www.standardwebhooks.com), scheme `v1`: HMAC-SHA256 over id, time and body."""

import base64
import binascii
import hmac
from collections.abc import Sequence
from hashlib import sha256
from typing import Final

PREFIX: Final = "whsec_"
LEAST_BYTES, MOST_BYTES = 24, 64


def parse_secret(text: str) -> bytes:
    """Return the key in a secret, `whsec_` and Base64.

    Raises:
        ValueError: The text is no such secret.
    """
    try:
        key = base64.b64decode(text.strip().removeprefix(PREFIX), validate=True)
    except binascii.Error as error:
        msg = "a secret of a webhook is `whsec_` and Base64"
        raise ValueError(msg) from error
    if not LEAST_BYTES <= len(key) <= MOST_BYTES:
        msg = f"a secret of a webhook has {len(key)} bytes, and must have {LEAST_BYTES} to {MOST_BYTES}"
        raise ValueError(msg)
    return key


def headers(keys: Sequence[bytes], message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """Return the headers of a webhook, with a signature by each key: during a rotation there are two."""
    signed = f"{message_id}.{timestamp_s}.".encode() + body
    signatures = (base64.b64encode(hmac.new(key, signed, sha256).digest()).decode() for key in keys)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
