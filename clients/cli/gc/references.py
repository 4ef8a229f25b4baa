"""References to objects: a digest in any field of a document keeps the object with this digest.

No field of a manifest or a record is known here, so fields of later versions count as well.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

CANDIDATES: Final = (
    "attestations/",
    "blobs/",
    "checkpoints/",
    "manifests/benchmark/",
    "manifests/evaluation/",
    "manifests/folder/",
    "manifests/merged/",
    "manifests/variant/",
    "sources/",
)
"""Prefixes of objects that may be removed. Objects with other keys stay and keep the objects that they name."""
DOCUMENT_BYTES: Final = 32 * 1024 * 1024
"""Maximum size of a document in bytes; larger objects are not read for references."""
_HEX = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_PAYLOAD = re.compile(rb'"payload"\s*:\s*"([A-Za-z0-9+/=_-]+)"')
_BLOB = re.compile(r"(?:.*/)?blobs/sha256/[0-9a-f]{2}/[0-9a-f]{64}")


def names_in(data: bytes) -> set[str]:
    """Return the digests in a document and its signed payload, as 64 hexadecimal digits."""
    names = {match.decode() for match in _HEX.findall(data)}
    for payload in _PAYLOAD.findall(data):
        try:
            names |= names_in(base64.b64decode(payload.replace(b"-", b"+").replace(b"_", b"/")))
        except (binascii.Error, ValueError):
            continue
    return names


def name_of(key: str) -> str | None:
    """Return the first digest in a key, by which the object is referenced; None without a digest."""
    match = _HEX.search(key.encode())
    return match[0].decode() if match is not None else None


def is_candidate(key: str) -> bool:
    """Return whether an object may be removed: it has a prefix of `CANDIDATES`, and a digest in its key."""
    return key.startswith(CANDIDATES) and name_of(key) is not None


def is_document(key: str, size: int) -> bool:
    """Return whether an object is read for references: small, and no blob."""
    return size <= DOCUMENT_BYTES and _BLOB.fullmatch(key) is None


def reached(names: Iterable[str], sizes: Mapping[str, int], read: Callable[[str], bytes | None]) -> set[str]:
    """Return the keys of the candidates that are referenced directly or through documents.

    Args:
        names: Referenced digests.
        sizes: Sizes of all candidates in bytes, by key.
        read: Returns a document; None if it does not exist.
    """
    by_name: dict[str, list[str]] = {}
    for key in sizes:
        by_name.setdefault(name_of(key) or "", []).append(key)
    waiting, seen, kept = list(set(names)), set(names), set[str]()
    while waiting:
        for key in by_name.get(waiting.pop(), ()):
            kept.add(key)
            data = read(key) if is_document(key, sizes[key]) else None
            if data is not None:
                named = names_in(data) | {hashlib.sha256(data).hexdigest()}  # attestations go by that digest
                waiting += named - seen
                seen |= named
    return kept
