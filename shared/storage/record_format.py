"""Records as JSON with their schema version."""

import json
from collections.abc import Mapping
from typing import TypeVar

import structlog
from pydantic import BaseModel

from shared.errors import Transient

M = TypeVar("M", bound=BaseModel)
FIELD = "schema_version"


def schema_version(kind: type[BaseModel]) -> int:
    """Return the schema version of a type of record; 1 by default."""
    version: int = getattr(kind, "SCHEMA_VERSION", 1)
    return version


def dump(record: BaseModel) -> bytes:
    """Return the bytes of a record, its schema version first."""
    body = record.model_dump_json()
    separator = "" if body == "{}" else ","
    return f'{{"{FIELD}":{schema_version(type(record))}{separator}{body[1:]}'.encode()


def parse(kind: type[M], data: bytes, name: str) -> M:
    """Return a record.

    Args:
        kind: The type of the record.
        data: Its bytes.
        name: Bucket and key, for the error message.

    Raises:
        Transient: `record_version_unknown` for another schema version; `internal_error` for a damaged record.
    """
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _damaged(name, error) from error
    version, known = fields.pop(FIELD, None) if isinstance(fields, dict) else None, schema_version(kind)
    if version != known or type(version) is not int:
        raise Transient(
            "record_version_unknown",
            f"The record {name} has schema version {json.dumps(version)}; this process reads version {known}.",
        )
    try:
        return kind.model_validate(fields)
    except Exception as error:
        raise _damaged(name, error) from error


def dump_all(records: Mapping[str, BaseModel]) -> bytes:
    """Return the bytes of a file of records, by key, each with its schema version."""
    return json.dumps({key: json.loads(dump(record)) for key, record in records.items()}, indent=1).encode()


def parse_all(kind: type[M], data: bytes, name: str) -> dict[str, M]:
    """Return the readable records of a file, by key.

    Args:
        kind: The type of the records.
        data: The bytes of the file.
        name: The file, for log lines.
    """
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        fields = None
        structlog.get_logger().warning("the file of records cannot be read", file=name, error=repr(error))
    records: dict[str, M] = {}
    for key, value in fields.items() if isinstance(fields, dict) else ():
        try:
            records[key] = parse(kind, json.dumps(value).encode(), f"{key} of {name}")
        except Transient as error:
            structlog.get_logger().warning("a saved record cannot be used", file=name, key=key, reason=error.sentence())
    return records


def _damaged(name: str, error: Exception) -> Transient:
    return Transient(
        "internal_error",
        f"The record {name} cannot be read: {type(error).__name__}: {error}. Restore it from a backup.",
    )
