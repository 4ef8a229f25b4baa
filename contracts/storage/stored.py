"""Records under compare-and-set, with the version of their fields."""

from __future__ import annotations

from typing import ClassVar

from ..vocabulary import Contract


class StoredRecord(Contract):
    """A record that a service writes by compare-and-set.

    Attributes:
        SCHEMA_VERSION: Version of the fields; a reader refuses a record of another one.
    """

    SCHEMA_VERSION: ClassVar[int] = 1
