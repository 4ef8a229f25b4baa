"""No mocks: a fake is written and passes the conformance suite of its port, and no test replaces our code with another."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = ("contracts", "shared", "services", "clients", "deploy", "decisions", "examples", "benchmarks", "testbed")
MOCKS = {"mock", "unittest.mock", "pytest_mock", "mocker"}
MOCK_NAMES = {"Mock", "MagicMock", "AsyncMock", "create_autospec", "mocker"}
LIMIT = re.compile(r"_?[A-Z][A-Z0-9_]*")
"""A constant: tests may lower a limit, so that they need not send gigabytes."""
REPLACED = {
    ("test_engine_calls.py", "_write_files"): "pauses between two real steps, which no fake of a port could",
    ("test_merge.py", "_merge"): "a merge that does nothing shows that the comparison can fail",
    ("test_quantise_int4.py", "SafeAwqQuantizer"): "watches the real one, and runs the defect that it mends",
    ("test_quantiser_precision.py", "linear_layers"): "watches the real one",
}
"""Functions and classes of ours that a test replaces, each with its reason."""


def files() -> list[Path]:
    return sorted((ROOT / "tests").rglob("*.py"))


def modules_named(tree: ast.AST) -> dict[str, str]:
    """Return what each imported name of a file stands for, whole."""
    modules = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.asname or alias.name.split(".")[0]: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return modules


def mocks_in(source: str) -> list[str]:
    """Return the mocks that a file imports or names."""
    tree = ast.parse(source)
    imported = {
        module for module in modules_named(tree).values() for mock in MOCKS if f"{module}.".startswith(f"{mock}.")
    }
    arguments = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)} & MOCK_NAMES
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} & MOCK_NAMES
    members = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & MOCK_NAMES
    return sorted(imported | arguments | names | members)


def root_of(node: ast.expr) -> str | None:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def replaced_in(source: str) -> list[str]:
    """Return the functions and classes of ours that a file replaces by `monkeypatch` or by assignment to a module.

    What is not known to be another library's counts as ours.
    """
    tree = ast.parse(source)
    modules, names = modules_named(tree), []

    def note(target: str | None, name: str) -> None:
        module = modules.get(target, OURS[0]) if target else OURS[0]
        if module.split(".")[0] in OURS and not LIMIT.fullmatch(name):
            names.append(name)

    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "setattr":
            first, second = node.args[0], node.args[1]
            if isinstance(first, ast.Constant):
                module, _, name = str(first.value).rpartition(".")
                if module.split(".")[0] in OURS and not LIMIT.fullmatch(name):
                    names.append(name)
            else:
                note(root_of(first), second.value if isinstance(second, ast.Constant) else "?")
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                holder = root_of(target.value) if isinstance(target, ast.Attribute) else None
                if holder in modules:
                    note(holder, target.attr)
    return names


def test_no_test_uses_a_mock():
    assert {path.name: mocks for path in files() if (mocks := mocks_in(path.read_text()))} == {}


def test_no_test_replaces_our_code_but_those_that_say_why():
    replaced = {(path.name, name) for path in files() for name in replaced_in(path.read_text())}
    assert replaced == set(REPLACED)


@pytest.mark.parametrize(
    "source",
    [
        "from unittest import mock",
        "from unittest.mock import patch",
        "import unittest.mock as m",
        "def test(mocker): pass",
        "import x\nx.MagicMock()",
    ],
)
def test_mocks_are_found(source):
    assert mocks_in(source)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("monkeypatch.setattr('shared.bus.publish_event', fake)", ["publish_event"]),
        ("from shared import bus\nmonkeypatch.setattr(bus, 'publish_event', fake)", ["publish_event"]),
        ("from shared import bus\nbus.publish_event = fake", ["publish_event"]),
        ("monkeypatch.setattr(unknown, 'name', fake)", ["name"]),
        ("from shared import bus\nmonkeypatch.setattr(bus, '_BACKOFF_S', 1)", []),
        ("import os\nmonkeypatch.setattr(os, 'fsync', fake)", []),
        ("monkeypatch.setattr('sys.argv', [])", []),
    ],
)
def test_what_replaces_our_code_is_found(source, names):
    assert replaced_in(source) == names
