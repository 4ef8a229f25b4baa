"""Which objects something refers to: whatever names a digest or a key, in any field of any document, keeps it.

Nothing here knows the fields of a manifest or a record. A field that a later version adds keeps what it names as well.
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
"""Prefixes of what may be removed; objects under other ones stay, and hold what they name."""
DOCUMENT_BYTES: Final = 32 * 1024 * 1024
"""Objects above this size are no documents; they are kept or not, and never read."""
_HEX = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_PAYLOAD = re.compile(rb'"payload"\s*:\s*"([A-Za-z0-9+/=_-]+)"')
_BLOB = re.compile(r"(?:.*/)?blobs/sha256/[0-9a-f]{2}/[0-9a-f]{64}")


def names_in(data: bytes) -> set[str]:
    """Return the digests, as 64 hexadecimal digits, that a document names; those in a signed payload too."""
    names = {match.decode() for match in _HEX.findall(data)}
    for payload in _PAYLOAD.findall(data):
        try:
            names |= names_in(base64.b64decode(payload.replace(b"-", b"+").replace(b"_", b"/")))
        except (binascii.Error, ValueError):
            continue
    return names


def name_of(key: str) -> str | None:
    """Return the digest by which an object is referenced: the first in its key; None without one."""
    match = _HEX.search(key.encode())
    return match[0].decode() if match is not None else None


def is_candidate(key: str) -> bool:
    """Return whether an object may be removed: its key must contain a digest, by which references are found."""
    return key.startswith(CANDIDATES) and name_of(key) is not None


def is_document(key: str, size: int) -> bool:
    """Return whether an object is read for its references."""
    return size <= DOCUMENT_BYTES and _BLOB.fullmatch(key) is None


def reached(names: Iterable[str], sizes: Mapping[str, int], read: Callable[[str], bytes | None]) -> set[str]:
    """Return the candidates that names refer to, at once or through documents.

    Args:
        names: Digests that something else names.
        sizes: Sizes of all candidates, by key.
        read: Returns a document; None if it was removed meanwhile.
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
