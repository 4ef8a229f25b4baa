"""docs/testing.md: how many entries take hostile inputs in `make test`, and how many of them."""

import ast

from tests.kit.mutation import INPUTS
from tests.kit.wiring import ROOT

FUZZED = [*sorted((ROOT / "tests/unit/fuzz").glob("test_*.py")), ROOT / "tests/unit/merger/test_hostile_checkpoints.py"]


def inputs_of(call: ast.Call) -> int:
    """Return how many inputs an attack has: its argument `inputs`, the last one of `attack_files`, or the usual number."""
    if call.func.id == "attack_files":
        return call.args[-1].value
    named = [argument.value.value for argument in call.keywords if argument.arg == "inputs"]
    return named[0] if named else INPUTS


def attacks() -> list[int]:
    """Return the inputs of each entry: a test that attacks."""
    tests = (
        node
        for path in FUZZED
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    )
    calls = [
        [
            call
            for call in ast.walk(test)
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") in ("attack", "attack_files")
        ]
        for test in tests
    ]
    return [sum(map(inputs_of, each)) for each in calls if each]


def test_the_page_counts_the_entries_and_their_inputs():
    page, counts = (ROOT / "docs/testing.md").read_text(), attacks()
    assert len(counts) > 10
    assert f"two at a time; {len(counts)} entries |" in page
    assert f"with at least {min(counts)} inputs an entry, {sum(counts):,} in all" in page
