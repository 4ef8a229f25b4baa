"""Modules that a file imports, by the names that it gives them."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def modules_named(tree: ast.AST) -> dict[str, str]:
    """Return what each imported name of a file stands for, whole."""
    modules = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.asname or alias.name.split(".")[0]: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return modules
