"""The fields of a release policy, from its JSON Schema and the text beside each field."""

from contracts import golden, policy
from contracts.policy import ReleasePolicy
from deploy.documentation.events_page import fields_table
from deploy.documentation.field_notes import field_notes
from deploy.documentation.markdown import escape


def render() -> str:
    """Return a section for the policy and one for each object in it, in the order in which they are used."""
    schema = ReleasePolicy.model_json_schema()
    objects = {"ReleasePolicy": schema, **schema["$defs"]}
    return "\n".join(_section(name, objects[name]) for name in objects if "properties" in objects[name])


def _section(name: str, schema: dict[str, object]) -> str:
    text = escape(str(schema.get("description") or "").partition("\n\n")[0])
    kind = getattr(policy, name, None) or getattr(golden, name)
    return f"### {name}\n\n{text}\n\n{fields_table(schema, field_notes(kind))}"
