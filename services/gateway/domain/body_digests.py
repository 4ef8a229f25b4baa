"""Digests of what requests ask, by which the same request is recognised. Pure."""

import hashlib
import json

from services.gateway.domain.requests import ParsedRequest

_NO_MATTER = frozenset({"model", "stream", "stream_options", "user"})
"""Fields that change how an answer is delivered, and not what the engine computes."""
_LARGE_BYTES = 2**16
"""A longer body is recognised only byte by byte: writing it again would delay the answers in progress."""


def digest_of(parsed: ParsedRequest) -> str:
    """Return the digest of a request: the same for bodies that differ in form, order of fields or delivery."""
    if len(parsed.raw) > _LARGE_BYTES:
        asked = parsed.raw
    else:
        fields = {name: value for name, value in parsed.body.items() if name not in _NO_MATTER}
        asked = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(parsed.path.encode() + b"\n" + asked).hexdigest()
