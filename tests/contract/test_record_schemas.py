"""The fields of every stored record, by version: none changes without a new schema version."""

import hashlib
import json
import re
from typing import Any, ClassVar

import pytest

from contracts.records import OutboxRecord, StoredRecord
from contracts.vocabulary import Contract
from tests.contract.record_kinds import record_kinds
from tests.kit.wiring import ROOT

DIGESTS = "tests/contract/record_schemas.json"
"""By the name of a record and its schema version: the digest of its fields."""
PROSE = {"title", "description"}
REFERENCE = re.compile(r"#/\$defs/([^\"]+)")


def digest(kind: type[StoredRecord]) -> str:
    """Return a digest of the fields of a record: prose and the names of classes are left out, JSON has neither."""
    schema = without_prose(kind.model_json_schema())
    definitions = schema.pop("$defs", {})
    numbers, parts, texts = {}, [schema], []
    for part in parts:  # grows: each definition follows where it is first referred to
        texts.append(json.dumps(part, sort_keys=True))
        for name in REFERENCE.findall(texts[-1]):
            if name not in numbers:
                numbers[name] = len(numbers)
                parts.append(definitions[name])
    text = REFERENCE.sub(lambda reference: f"#/$defs/{numbers[reference[1]]}", "\n".join(texts))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def without_prose(schema: Any, *, is_names: bool = False) -> Any:
    """Return a schema without titles and descriptions; `is_names`: its keys are names of fields or definitions."""
    if isinstance(schema, list):
        return [without_prose(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: without_prose(value, is_names=not is_names and key in ("properties", "$defs"))
        for key, value in schema.items()
        if is_names or key not in PROSE
    }


def complaint(name: str, kind: type[StoredRecord], known: dict[str, str]) -> str | None:
    """Return what is wrong with a record and what to do; None if nothing is."""
    version, now = kind.SCHEMA_VERSION, digest(kind)
    if known.get(str(version)) == now:
        unread = [number for number in map(int, known) if number < version and number not in kind.MIGRATIONS]
        return f"{name} cannot be read from version {unread}: add it to MIGRATIONS." if unread else None
    newest = max(map(int, known), default=0)
    step = f"raise SCHEMA_VERSION to {newest + 1}" if version <= newest else f"keep SCHEMA_VERSION {version}"
    migrate = f", write MIGRATIONS[{newest}]" if newest else ""
    return f'{name} has other fields than {DIGESTS} lists: {step}{migrate}, add the new version\'s "{now}" to the file.'


KINDS = record_kinds()


@pytest.mark.parametrize("name", KINDS)
def test_no_record_changes_its_fields_without_a_new_schema_version(name):
    known = json.loads((ROOT / DIGESTS).read_text())
    assert complaint(name, KINDS[name], known.get(name, {})) is None


def test_the_file_lists_the_records_that_there_are():
    assert set(json.loads((ROOT / DIGESTS).read_text())) == set(KINDS)
    assert len(KINDS) >= 6


class Before(OutboxRecord):
    """A record."""

    count: int = 0


class After(OutboxRecord):
    """The same one, with one more field."""

    count: int = 0
    added: str = ""


class Raised(After):
    """With the version raised."""

    SCHEMA_VERSION: ClassVar[int] = 2


class Migrating(Raised):
    """And a migration."""

    MIGRATIONS: ClassVar = {1: dict}


class Reworded(OutboxRecord):
    """Another text about the same fields."""

    count: int = 0


class Part(Contract):
    """A part of a record."""

    size: int


class Section(Contract):
    """The same part under another name."""

    size: int


class OtherPart(Contract):
    """A part with another field."""

    size: str


class WithPart(OutboxRecord):
    """A record with a part."""

    parts: tuple[Part, ...] = ()


class WithSection(OutboxRecord):
    """The same one, the class of its part renamed."""

    parts: tuple[Section, ...] = ()


class WithOtherPart(OutboxRecord):
    """One whose part changed."""

    parts: tuple[OtherPart, ...] = ()


KNOWN = {"1": digest(Before)}


@pytest.mark.parametrize(
    ("kind", "known", "asked"),
    [
        (Before, KNOWN, None),
        (Reworded, KNOWN, None),
        (After, KNOWN, "raise SCHEMA_VERSION to 2, write MIGRATIONS[1]"),
        (Raised, KNOWN, "keep SCHEMA_VERSION 2, write MIGRATIONS[1]"),
        (Raised, {**KNOWN, "2": digest(Raised)}, "cannot be read from version [1]"),
        (Migrating, {**KNOWN, "2": digest(Raised)}, None),
        (Before, {}, "add the new version's"),
        (WithSection, {"1": digest(WithPart)}, None),
        (WithOtherPart, {"1": digest(WithPart)}, "raise SCHEMA_VERSION to 2"),
    ],
)
def test_a_change_of_fields_asks_for_a_version_and_a_migration(kind, known, asked):
    complained = complaint("Record", kind, known)
    assert (complained is None) if asked is None else (asked in complained)
