"""The catalogue of events: for each, who publishes and reads it, where it is stored, its fields, and an example."""

import textwrap
from pathlib import Path
from typing import Any

from contracts.envelope import Event
from contracts.facts import FACTS, Fact
from contracts.services import FROM_OUTSIDE, SERVICES, stream_of
from deploy import generate
from deploy.documentation.field_notes import field_notes, first_line
from deploy.documentation.markdown import code, escape, table
from deploy.documentation.schema_types import type_of_schema

SAMPLES = Path(__file__).resolve().parents[2] / "contracts/samples"


def render() -> str:
    """Return an overview, a section for each event, and one for each object that events contain."""
    channels = generate.asyncapi()["channels"]
    sections = [_overview(), _envelope()]
    objects: dict[str, dict[str, Any]] = {}
    for type_, fact in FACTS.items():
        schema = fact.model_json_schema()
        objects |= schema.get("$defs", {})
        sections.append(_section(fact, schema, channels[type_]["address"]))
    sections.append("## Objects\n\nWhat events contain, in alphabetical order.\n")
    sections += [object_section(name, objects[name], {}) for name in sorted(objects) if "properties" in objects[name]]
    return "\n".join(sections)


def _overview() -> str:
    rows = [(f"[`{type_}`](#{anchor(type_)})", escape(first_line(fact))) for type_, fact in FACTS.items()]
    return table(("event", "meaning"), rows)


def _envelope() -> str:
    schema = Event[Fact].model_json_schema(by_alias=True)
    attributes = {name: field for name, field in schema["properties"].items() if name != "data"}
    fields = fields_table({**schema, "properties": attributes}, field_notes(Event))
    return f"## Envelope\n\nThe attributes around `data`, the same in every event.\n\n{fields}"


def anchor(type_: str) -> str:
    """Return the anchor of an event's section."""
    return type_.replace(".", "")


def _section(fact: type[Fact], schema: dict[str, Any], subject: str) -> str:
    publishers = [service.name for service in SERVICES.values() if fact in service.emits]
    publishers += ["people and programs"] if fact in FROM_OUTSIDE else []
    readers = [service.name for service in SERVICES.values() if fact in service.consumes]
    facts = table(
        ("subject", "stream", "published by", "read by"),
        [
            (
                code(subject),
                code(stream_of(fact)) if stream_of(fact) else "not stored",
                ", ".join(publishers) or "every service",
                ", ".join(readers) or "observers only",
            )
        ],
    )
    fields = fields_table(schema, field_notes(fact))
    return f"## {fact.TYPE}\n\n{escape(first_line(fact))}\n\n{facts}\n{fields}\n{_sample(fact)}"


def _sample(fact: type[Fact]) -> str:
    """Return the sample of an event, folded; every event has one, in which all fields are set."""
    sample = (SAMPLES / f"{fact.TYPE}.json").read_text().strip()
    return '??? example "Example"\n\n' + textwrap.indent(f"```json\n{sample}\n```\n", "    ")


def object_section(name: str, schema: dict[str, Any], notes: dict[str, str]) -> str:
    """Return the section of an object: its meaning and its fields."""
    text = escape((schema.get("description") or "").partition("\n\n")[0])
    return f"### {name}\n\n{text}\n\n{fields_table(schema, notes)}"


def fields_table(schema: dict[str, Any], notes: dict[str, str]) -> str:
    """Return the fields of an object; a field is optional if it has a default."""
    required = schema.get("required", [])
    rows = [
        (code(name), type_of_schema(field), _default(field, name in required), escape(notes.get(name, "")))
        for name, field in schema.get("properties", {}).items()
    ]
    if not rows:
        return "No fields.\n"
    if not any(row[3] for row in rows):
        return table(("field", "type", "default"), [row[:3] for row in rows])
    return table(("field", "type", "default", "meaning"), rows)


def _default(field: dict[str, Any], required: bool) -> str:
    if required:
        return "required"
    default = field.get("default")
    if default is None or default in ([], {}, ""):
        return "none"
    return "see there" if isinstance(default, dict) else code(_scalar(default))


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.12g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
