"""Which test files run for a mutant: those that import its module, the nearest first."""

import ast
from collections import defaultdict, deque
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGES = ("contracts", "decisions", "shared", "services", "clients", "deploy", "testbed", "tests")


def module_name(file: Path | str) -> str:
    """Return the name under which a file is imported."""
    parts = Path(file).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def read_importers() -> dict[str, frozenset[str]]:
    """Return the files that import each module of the repository."""
    files = [file for package in PACKAGES for file in Path(package).rglob("*.py")]
    modules = {module_name(file) for file in files}
    importers = defaultdict(set)
    for file in files:
        for name in _imported(ast.parse(file.read_text())):
            if name in modules:
                importers[name].add(str(file))
    return {name: frozenset(found) for name, found in importers.items()}


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def choose_tests(file: str, most: int) -> list[str]:
    """Return the unit test files for a file: its own, then by steps of imports, its package's before others."""
    steps = {module_name(file): 0}
    waiting, importers = deque(steps), read_importers()
    while waiting:
        name = waiting.popleft()
        for importer in importers.get(name, ()):
            if module_name(importer) not in steps:
                steps[module_name(importer)] = steps[name] + 1
                waiting.append(module_name(importer))
    package = file.split("/")[1 if file.startswith("services/") else 0]

    def order(test: Path) -> tuple[bool, int, bool, int]:
        own = test.parent.name == package
        return test.stem != f"test_{Path(file).stem}" or not own, steps[module_name(test)], not own, test.stat().st_size

    tests = [test for test in Path("tests/unit").rglob("test_*.py") if module_name(test) in steps]
    return [str(test) for test in sorted(tests, key=order)[:most]]
