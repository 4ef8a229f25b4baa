"""The tables of settings: every variable that a program reads, from the settings classes."""

import importlib
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode

from deploy.documentation.field_notes import field_notes
from deploy.documentation.markdown import code, escape, table
from deploy.documentation.schema_types import type_of_schema
from shared.runtime.settings import variable_of

ROOT = Path(__file__).resolve().parents[2]
SHARED = {"Connection": "All services", "SourceSettings": "Registry and merger: sources of checkpoints"}
"""Classes that several programs read, with the heading of each."""
_JSON = {"array": "JSON list", "object": "JSON object"}
COMMAND_LINE = ("clients.cli.settings", "The command line")


def settings_classes() -> dict[type[BaseSettings], str]:
    """Return the settings classes that programs read, each with its heading."""
    shared = importlib.import_module("shared.runtime.settings")
    classes = {getattr(shared, name): heading for name, heading in SHARED.items()}
    for path in sorted((ROOT / "services").glob("*/settings.py")):
        name = path.parent.name
        classes |= dict.fromkeys(_defined_in(f"services.{name}.settings"), name.replace("_", "-").capitalize())
    module, heading = COMMAND_LINE
    return classes | dict.fromkeys(_defined_in(module), heading)


def _defined_in(module: str) -> Iterator[type[BaseSettings]]:
    for member in vars(importlib.import_module(module)).values():
        if inspect.isclass(member) and issubclass(member, BaseSettings) and member.__module__ == module:
            yield member


def variables_of(kind: type[BaseSettings]) -> dict[str, FieldInfo]:
    """Return the fields of a settings class by the variable that each is read from."""
    return {variable_of(kind, name): field for name, field in kind.model_fields.items() if not _is_nested(field)}


def _is_nested(field: FieldInfo) -> bool:
    return inspect.isclass(field.annotation) and issubclass(field.annotation, BaseSettings)


def render() -> str:
    """Return one section for each settings class."""
    return "\n".join(_section(kind, heading) for kind, heading in settings_classes().items())


def _section(kind: type[BaseSettings], heading: str) -> str:
    notes, schemas = field_notes(kind), kind.model_json_schema(by_alias=False)["properties"]
    rows = [
        (code(variable_of(kind, name)), _type(field, schemas[name]), _default(field), escape(notes.get(name, "")))
        for name, field in kind.model_fields.items()
        if not _is_nested(field)
    ]
    return f"## {heading}\n\n" + table(("variable", "type", "default", "meaning"), rows)


def _type(field: FieldInfo, schema: dict[str, Any]) -> str:
    if NoDecode in field.metadata:
        return "list, with commas between"
    return _JSON.get(schema.get("type", "")) or type_of_schema(schema).removesuffix(", or `null`")


def _default(field: FieldInfo) -> str:
    default: Any = field.get_default(call_default_factory=True)
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    if default is None or default in ("", (), {}):
        return "not set"
    if isinstance(default, bool):
        return code(str(default).lower())
    if isinstance(default, float):
        return code(f"{default:.12g}")
    return code(json.dumps(default) if isinstance(default, dict) else default)
