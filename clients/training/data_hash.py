"""The hash of training data, independent of the machine, the order of keys and the chunks of rows.

Version 1: SHA-256 of the line `slipway-data-1` and then, for each row or file in its order, of the 32 bytes of its own
SHA-256. A row is hashed as JSON: keys sorted, no spaces, UTF-8, floats as Python writes them. A file is hashed by its
bytes, without its name.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_BLOCK = 1 << 20


def data_hash(data: Iterable[Mapping[str, Any] | Path]) -> str:
    """Return the digest of training data, as `sha256:<hex>`.

    Args:
        data: Rows (a `datasets.Dataset`, or mappings), or paths of files. Their order counts.

    Raises:
        ValueError: The data is neither rows nor paths, as text, a `DatasetDict` or a `DataFrame`; or a value has no
            canonical form: NaN, infinity, a key that is not text, or an object.
    """
    if isinstance(data, (Mapping, str, bytes)):
        raise _neither(data)
    try:
        items = iter(data)
    except TypeError:
        raise _neither(data) from None
    whole = hashlib.sha256(b"slipway-data-1\n")
    for item in items:
        if isinstance(item, Path):
            whole.update(_file(item))
        elif isinstance(item, Mapping):
            whole.update(_row(item))
        else:
            raise _neither(item)
    return f"sha256:{whole.hexdigest()}"


def _neither(value: object) -> ValueError:
    return ValueError(
        f"data_hash takes rows (mappings) or paths (pathlib.Path), not {type(value).__name__} {repr(value)[:80]}: pass "
        "one split of a DatasetDict, frame.to_dict('records') of a DataFrame, or a list as [Path('train.jsonl')]."
    )


def _file(path: Path) -> bytes:
    hashed = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(_BLOCK), b""):
            hashed.update(block)
    return hashed.digest()


def _row(row: Mapping[str, Any]) -> bytes:
    text = json.dumps(_plain(row), sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).digest()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            msg = f"The keys {list(value)[:3]!r} of a row are not all text: convert them first."
            raise ValueError(msg)
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if hasattr(value, "tolist"):  # of numpy and torch
        return _plain(value.tolist())
    if hasattr(value, "isoformat"):
        return value.isoformat()
    msg = f"A value of type {type(value).__name__} has no canonical form: convert it to text, numbers or lists first."
    raise ValueError(msg)
