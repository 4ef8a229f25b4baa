"""The reference of the console's API, from the OpenAPI document that the console itself serves."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

from deploy.documentation.events_page import object_section
from deploy.documentation.field_notes import listed_notes
from deploy.documentation.markdown import code, escape, table
from deploy.documentation.schema_types import type_of_schema, without_null
from services.console.app import build
from services.console.settings import ConsoleSettings

Json = dict[str, Any]
PARTS = (
    "bus", "index", "progress", "hub", "sessions", "people", "orders", "routes", "artifacts", "letters",
    "endpoints", "protection", "gateway", "provider", "clock",
)  # fmt: skip
TAGS: Mapping[str, str] = {
    "session": "Session",
    "models": "Models",
    "releases": "Releases",
    "alerts": "Alerts",
    "history": "History",
    "orders": "Orders",
}


def document() -> Json:
    """Return the OpenAPI document; it names the routes, so that the application needs none of its parts."""
    parts: Any = dict.fromkeys(PARTS, object())
    return build(**parts, settings=ConsoleSettings.model_construct()).openapi()


def render() -> str:
    """Return an overview, a section for each operation by tag, and one for each object."""
    described = document()
    operations = list(_operations(described))
    sections = [escape(described["info"]["description"]) + "\n", _overview(operations)]
    for tag, heading in TAGS.items():
        sections.append(f"## {heading}\n")
        sections += [
            _section(method, path, operation) for method, path, operation in operations if _tag(operation) == tag
        ]
    schemas = {name: schema for name, schema in described["components"]["schemas"].items() if "properties" in schema}
    sections.append("## Objects\n\nWhat requests and answers contain, in alphabetical order.\n")
    sections += [_object(name, schemas[name]) for name in sorted(schemas)]
    return "\n".join(sections)


def _operations(described: Json) -> Iterator[tuple[str, str, Json]]:
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def _tag(operation: Json) -> str:
    return cast("str", operation["tags"][0])


def _overview(operations: list[tuple[str, str, Json]]) -> str:
    rows = [
        (code(f"{method} {path}"), escape(operation["description"].partition("\n\n")[0]))
        for method, path, operation in operations
    ]
    return table(("operation", "meaning"), rows)


def _section(method: str, path: str, operation: Json) -> str:
    answer = operation["responses"]["200"].get("content", {}).get("application/json", {}).get("schema", {})
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    lines = [f"### {method} {path}", escape(operation["description"])]
    lines += [_parameters(operation["parameters"])] if operation.get("parameters") else []
    lines += [f"Body: {type_of_schema(body)}."] if body else []
    lines.append(f"Answer: {type_of_schema(answer)}." if answer else "Answer: a stream of server-sent events.")
    return "\n\n".join(lines) + "\n"


def _parameters(parameters: list[Json]) -> str:
    rows = [
        (
            code(each["name"]),
            each["in"],
            type_of_schema(without_null(each["schema"])),
            "required" if each.get("required") else "",
            escape(each.get("description") or ""),
        )
        for each in parameters
    ]
    return table(("parameter", "in", "type", "", "meaning"), rows)


def _object(name: str, schema: Json) -> str:
    return object_section(name, schema, listed_notes(schema.get("description") or ""))
