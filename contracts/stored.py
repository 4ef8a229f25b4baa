"""Records under compare-and-set: the version of their fields, and how older ones are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

from .vocabulary import Contract

S = TypeVar("S", bound="StoredRecord")
Migration = Callable[[dict[str, Any]], dict[str, Any]]
"""A pure function from the JSON fields of one schema version to those of the next."""


class StoredRecord(Contract):
    """A record that a service writes by compare-and-set.

    Attributes:
        SCHEMA_VERSION: Version of the fields. Raise it with every change after which an older reader would drop or
            misread something, a new field included.
        MIGRATIONS: By version, how its fields become those of the next version.
    """

    SCHEMA_VERSION: ClassVar[int] = 1
    MIGRATIONS: ClassVar[Mapping[int, Migration]] = {}

    def of_newer(self: S) -> S | None:  # noqa: PYI019 - Python 3.9 has no Self
        """Return what a reader may take of a record of a newer version, of which it knows a part; None for nothing."""
        return self


def unchanged(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields as they are: the next version only has more optional ones, or more values of a code."""
    return fields
