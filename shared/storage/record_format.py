"""Writes records as JSON with the version of their schema, and reads them with their migrations."""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

import structlog
from pydantic import BaseModel

from contracts.stored import Migration
from shared.errors import Transient

M = TypeVar("M", bound=BaseModel)
FIELD = "schema_version"


def schema_version(kind: type[BaseModel]) -> int:
    """Return the schema version that this process writes of a kind of record; 1 if the kind does not state one."""
    version: int = getattr(kind, "SCHEMA_VERSION", 1)
    return version


def dump(record: BaseModel) -> bytes:
    """Return the bytes of a record, its schema version first."""
    body = record.model_dump_json()
    separator = "" if body == "{}" else ","
    return f'{{"{FIELD}":{schema_version(type(record))}{separator}{body[1:]}'.encode()


def parse(kind: type[M], data: bytes, name: str) -> tuple[M, int]:
    """Return a record and the schema version that it was written with.

    A record of a newer version is read as far as this version knows its fields. Who read it must not write it.

    Args:
        kind: The type of the record.
        data: Its bytes.
        name: Bucket and key, for the error message.

    Raises:
        Transient: `record_too_old` if the record has no version, or one that no migration starts from;
            `record_too_new` if it is of a newer version and cannot be read; `internal_error` if it is damaged,
            whatever reading it raises: one damaged record must not end what reads all of them.
    """
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _damaged(name, error) from error
    version = fields.pop(FIELD, None) if isinstance(fields, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise Transient("record_too_old", f"The record {name} has no schema version.")
    try:
        return kind.model_validate(migrated(kind, fields, version, name)), version
    except Transient:
        raise
    except Exception as error:
        if version > schema_version(kind):
            raise too_new(kind, version, name) from error
        raise _damaged(name, error) from error


def dump_all(records: Mapping[str, BaseModel]) -> bytes:
    """Return the bytes of a file of records, by key, each with its schema version."""
    return json.dumps({key: json.loads(dump(record)) for key, record in records.items()}, indent=1).encode()


def parse_all(kind: type[M], data: bytes, name: str) -> dict[str, M]:
    """Return the records of a file, by key. Those that cannot be read, or are of a newer version, are left out.

    A reader of a file acts on its records, so one whose fields are not all known is none. A record without a version
    is of version 1: files had none before.

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
        versioned = {FIELD: 1, **value} if isinstance(value, dict) else value
        try:
            record, version = parse(kind, json.dumps(versioned).encode(), f"{key} of {name}")
            if version > schema_version(kind):
                raise too_new(kind, version, f"{key} of {name}")
        except Transient as error:
            structlog.get_logger().warning("a saved record cannot be used", file=name, key=key, reason=error.sentence())
            continue
        records[key] = record
    return records


def migrated(kind: type[BaseModel], fields: dict[str, Any], version: int, name: str) -> dict[str, Any]:
    """Return the fields of a record as of the version that this process writes; those of a newer one as they are."""
    migrations: Mapping[int, Migration] = getattr(kind, "MIGRATIONS", {})
    for step in range(version, schema_version(kind)):
        if step not in migrations:
            reason = f"The record {name} has schema version {version}; the oldest that can be read is {step + 1}."
            raise Transient("record_too_old", reason)
        fields = migrations[step](fields)
    return fields


def too_new(kind: type[BaseModel], version: int, name: str) -> Transient:
    """Return the error of a process that would write a record of a newer schema version and drop what it adds."""
    reason = (
        f"The record {name} has schema version {version}; this process writes versions up to {schema_version(kind)}."
    )
    return Transient("record_too_new", reason)


def _damaged(name: str, error: Exception) -> Transient:
    reason = f"The record {name} cannot be read: {type(error).__name__}: {error}. Restore it from a backup."
    return Transient("internal_error", reason)
