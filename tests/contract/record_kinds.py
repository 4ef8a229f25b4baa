"""The kinds of records that services keep."""

import ast
import importlib
from functools import cache
from pathlib import Path

from contracts.vocabulary import StoredRecord
from tests.kit.wiring import ROOT

BASES = {"StoredRecord", "OutboxRecord"}


def record_kinds() -> dict[str, type[StoredRecord]]:
    """Return every kind of record that is stored, by module and name; only its own module is imported."""
    texts = {path: path.read_text() for folder in ("contracts", "services") for path in (ROOT / folder).rglob("*.py")}
    names, classes = set(BASES), {}
    while True:
        for path in sorted(path for path, text in texts.items() if any(name in text for name in names)):
            for node in class_statements(texts[path]):
                if node.name not in BASES and any(names & named(base) for base in node.bases):
                    classes[f"{module_of(path)}.{node.name}"] = (module_of(path), node.name)
        if names >= {name for _, name in classes.values()}:
            return {key: getattr(importlib.import_module(module), name) for key, (module, name) in classes.items()}
        names |= {name for _, name in classes.values()}


@cache
def class_statements(text: str) -> list[ast.ClassDef]:
    """Return the class statements of a module."""
    return [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef)]


def named(base: ast.expr) -> set[str]:
    return {part for node in ast.walk(base) if (part := getattr(node, "id", None) or getattr(node, "attr", None))}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)
