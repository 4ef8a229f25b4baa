"""The steps of a release, and the fields of its policy, from its JSON Schema and the text beside each field."""

from contracts import golden, policy
from contracts.policy import ReleasePolicy
from decisions.releases.plan import ROWS, Row
from deploy.documentation.events_page import fields_table
from deploy.documentation.field_notes import field_notes
from deploy.documentation.markdown import escape


def render() -> str:
    """Return the steps that a policy makes, a section for the policy, and one for each object in it as it is used."""
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
    kind = getattr(policy, name, None) or getattr(golden, name)
    return f"### {name}\n\n{text}\n\n{fields_table(schema, field_notes(kind))}"
