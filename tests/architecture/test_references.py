"""Programs that no test runs still import: what benchmarks, examples and test servers name of ours exists.

Imports are resolved without running them, so that torch is not loaded; `module.name` is resolved as well.
"""

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.kit.wiring import ROOT

OURS = (
    "contracts",
    "decisions",
    "shared",
    "services",
    "clients",
    "deploy",
    "testbed",
    "benchmarks",
    "examples",
    "tests",
)
CHECKED = ("testbed", "benchmarks", "examples", "tests")


def file_of(module: str) -> Path | None:
    """Return the file of a module, or None if there is none."""
    path = ROOT.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def exists(module: str) -> bool:
    """Return whether a module can be imported; a folder without `__init__.py` can."""
    return file_of(module) is not None or ROOT.joinpath(*module.split(".")).is_dir()


@cache
def names_in(path: Path) -> frozenset[str] | None:
    """Return the names that a file binds outside functions and classes; None if it decides that when it runs."""
    names: set[str] = set()
    pending: list[ast.AST] = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if node.name == "__getattr__":
                return None
            names.add(node.name)
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            if any(alias.name == "*" for alias in node.names):
                return None
            names |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        pending += ast.iter_child_nodes(node)
    return frozenset(names)


def has(module: str, name: str) -> bool:
    """Return whether a module has a name, or a module of that name in it."""
    path = file_of(module)
    names = frozenset() if path is None else names_in(path)
    return names is None or name in names or exists(f"{module}.{name}")


def missing_in(source: str) -> list[str]:
    """Return what a file names of ours that does not exist."""
    missing, modules = [], {}
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            missing += [a.name for a in node.names if a.name.split(".")[0] in OURS and not exists(a.name)]
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in OURS and not node.level:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                if not has(node.module, alias.name):
                    missing.append(whole)
                elif exists(whole):
                    modules[alias.asname or alias.name] = whole
    rebound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    rebound |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and isinstance(node.value, ast.Name):
            module = modules.get(node.value.id)
            if module and node.value.id not in rebound and not has(module, node.attr):
                missing.append(f"{module}.{node.attr}")
    return missing


@pytest.mark.parametrize("folder", CHECKED)
def test_what_a_file_names_of_ours_exists(folder):
    missing = {
        str(path.relative_to(ROOT)): missing_in(path.read_text()) for path in sorted((ROOT / folder).rglob("*.py"))
    }
    assert {path: names for path, names in missing.items() if names} == {}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("from testbed.no_such import x", ["testbed.no_such.x"]),
        ("import testbed.no_such", ["testbed.no_such"]),
        ("from testbed.servers import NoSuchServer", ["testbed.servers.NoSuchServer"]),
        ("from testbed import factories as k\nk.target(7)\nk.no_such()", ["testbed.factories.no_such"]),
        ("from testbed import factories\ndef f(factories):\n    return factories.no_such", []),
        ("from testbed.servers import NatsServer\nimport benchmarks.parts", []),
        ("from nats import no_such", []),
    ],
)
def test_what_does_not_exist_is_found(source, names):
    assert missing_in(source) == names
