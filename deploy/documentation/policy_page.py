"""The steps of a release, and the fields of its policy, from its JSON Schema and the text beside each field."""

from typing import Any

from contracts import evaluations, policy
from contracts.policy import ReleasePolicy
from decisions.releases.plan import ROWS, Row
from deploy.documentation.field_notes import field_notes
from deploy.documentation.markdown import code, escape, table
from deploy.documentation.schema_types import type_of_schema


def render() -> str:
    """Return the steps of a policy, a section for the policy, and one for each object in it in order of use."""
    schema = ReleasePolicy.model_json_schema()
    objects = {"ReleasePolicy": schema, **schema["$defs"]}
    sections = (_section(name, objects[name]) for name in objects if "properties" in objects[name])
    return "\n".join((_steps(), *sections))


def _steps() -> str:
    """Return the table of the steps of a release."""
    rows = [f"| {row.name} | {row.title} | {row.under_way} | {_begins(row)} | `{row.limit}` |" for row in ROWS.values()]
    heading = "| step | shown when done | under way | begins with | limit |"
    return "\n".join(("### Steps of a release", "", heading, "|---|---|---|---|---|", *rows, ""))


def _begins(row: Row) -> str:
    return f"`{row.begins}`" if row.begins else "the end of the step before"


def _section(name: str, schema: dict[str, object]) -> str:
    text = escape(str(schema.get("description") or "").partition("\n\n")[0])
    kind = next(getattr(module, name) for module in (policy, evaluations) if hasattr(module, name))
    return f"### {name}\n\n{text}\n\n{_fields(schema, field_notes(kind))}"


def _fields(schema: dict[str, Any], notes: dict[str, str]) -> str:
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
