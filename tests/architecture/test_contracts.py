"""`contracts/` is data: which of its modules may hold functions, and that none of them takes a decision."""

import ast
from pathlib import Path

import pytest

CONTRACTS = Path(__file__).resolve().parents[2] / "contracts"
MAY_HOLD_FUNCTIONS = {
    "identities.py": "the form of a credential's file; the training client ships it",
    "envelope.py": "subjects, derived ids, the JSON form",
    "limits.py": "what a publisher checks before it publishes; the training client ships it",
    "manifests.py": "validation of paths",
    "records.py": "the form in which a fact waits in a record, and keys of records",
    "services.py": "streams, subjects and names of consumers",
    "sources.py": "URIs and file names; the training client ships it",
    "stored.py": "the migration that changes nothing",
    "text_sets.py": "JSON lines; the training client ships it",
    "vocabulary.py": "canonical JSON and digests",
}
MODULES = sorted(CONTRACTS.rglob("*.py"), key=str)


def functions_of(tree):
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def changed_records_in(tree):
    """List where a record is derived from another one."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    named = [node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "") for node in calls]
    return [name for name in named if name == "model_copy"]


def decisions_in(tree):
    names = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return [name for name in names if name.startswith(("decide_", "plan_", "assess_"))]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(CONTRACTS)))
def test_contracts_are_data(path):
    tree = ast.parse(path.read_text())
    if path.name not in MAY_HOLD_FUNCTIONS:
        assert functions_of(tree) == []
    assert decisions_in(tree) == []
    assert changed_records_in(tree) == []


def test_the_list_names_modules_with_functions():
    assert {name for name in MAY_HOLD_FUNCTIONS if not functions_of(ast.parse((CONTRACTS / name).read_text()))} == set()


def test_a_decision_would_be_found():
    tree = ast.parse("def decide_it(route):\n    return route.model_copy(update={})\n")
    assert (functions_of(tree), decisions_in(tree), changed_records_in(tree)) == (
        ["decide_it"],
        ["decide_it"],
        ["model_copy"],
    )
