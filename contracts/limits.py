"""Size limits of a publisher's event, by field and in total, checked before anything is written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue

from .codes import ADVICE

EVENT_BYTES = 256 * 1024
"""Maximum size of an external event in bytes."""
TEXT_CHARACTERS = 2048
"""Maximum length of a text without a limit of its own."""
ITEMS = 64
"""Maximum number of entries of a list or mapping without a limit of its own."""
KEY_BYTES, KEY_PART_BYTES = 1024, 255
"""Maximum bytes of an object key (S3), and of a part of it (file systems)."""


@dataclass(frozen=True)
class AtMost:
    """Annotation: the size limit of a field, published in its schema and checked by `too_large`, not by parsing."""

    characters: int | None = None
    items: int | None = None
    json_bytes: int | None = None

    def __get_pydantic_json_schema__(self, core: Any, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return the field's JSON Schema with its limit."""
        schema = handler(core)
        if self.characters is not None:
            schema["maxLength"] = self.characters
        if self.items is not None:
            schema["maxProperties" if schema.get("type") == "object" else "maxItems"] = self.items
        if self.json_bytes is not None:
            schema["description"] = f"At most {self.json_bytes} bytes as JSON."
        return schema


@dataclass(frozen=True)
class TooLarge:
    """A value above its limit."""

    field: str
    size: int
    limit: int
    unit: str

    @property
    def reason(self) -> str:
        """Return a sentence with field, size and limit."""
        return f"{self.field} has {self.size:,} {self.unit}; the limit is {self.limit:,}."

    @property
    def sentence(self) -> str:
        """Return the reason, then the advice of the code `too_large`."""
        return f"{self.reason} {ADVICE['too_large']}"

    @property
    def details(self) -> dict[str, Any]:
        """Return the fields as JSON data."""
        return {"field": self.field, "size": self.size, "limit": self.limit, "unit": self.unit}


def event_too_large(body: bytes) -> TooLarge | None:
    """Return the excess of an external event's size; None if it is within `EVENT_BYTES`."""
    return TooLarge("The event", len(body), EVENT_BYTES, "bytes") if len(body) > EVENT_BYTES else None


def too_large(data: BaseModel) -> TooLarge | None:
    """Return the first field that exceeds its limit; None without one."""
    return next(_of_model(data, ""), None)


def _of_model(model: BaseModel, path: str) -> Iterator[TooLarge]:
    for name, field in type(model).model_fields.items():
        stated = next((annotation for annotation in field.metadata if isinstance(annotation, AtMost)), AtMost())
        yield from _of_value(getattr(model, name), f"{path}.{name}" if path else name, stated)


def _of_value(value: Any, path: str, stated: AtMost) -> Iterator[TooLarge]:
    if isinstance(value, BaseModel):
        yield from _of_model(value, path)
    elif isinstance(value, str):
        yield from _above(path, len(value), stated.characters or TEXT_CHARACTERS, "characters")
        yield from _of_key(value, path)
    elif isinstance(value, (Mapping, list, tuple, set, frozenset)):
        yield from _above(path, len(value), stated.items or ITEMS, "entries")
        if stated.json_bytes is not None:
            yield from _above(path, _json_bytes(value), stated.json_bytes, "bytes as JSON")
            return
        inner = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in inner:
            yield from _above(f"a key of {path}", len(str(key)), TEXT_CHARACTERS, "characters")
            yield from _of_value(item, f"{path}.{str(key)[:80]}", AtMost())


def _above(path: str, size: int, limit: int, unit: str) -> Iterator[TooLarge]:
    if size > limit:
        yield TooLarge(path, size, limit, unit)


def _of_key(value: str, path: str) -> Iterator[TooLarge]:
    if not value.startswith("s3://"):
        return
    key = value.removeprefix("s3://").partition("/")[2]
    yield from _above(f"the key of {path}", len(key.encode(errors="replace")), KEY_BYTES, "bytes")
    longest = max((len(part.encode(errors="replace")) for part in key.split("/")), default=0)
    yield from _above(f"a part of the key of {path}", longest, KEY_PART_BYTES, "bytes")


def _json_bytes(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False, default=str).encode(errors="replace"))
