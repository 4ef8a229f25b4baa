"""Which test files run for a mutant: those that import its module, first those that name the changed function."""

import ast
import re
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


def find_public(source: str, line: int) -> set[str]:
    """Return the public names of a module that reach a line: what it belongs to, and what uses that."""
    names = {node: _defined(node) for node in ast.parse(source).body}
    found = {name for node, own in names.items() if node.lineno <= line <= (node.end_lineno or 0) for name in own}
    while True:
        using = {
            name
            for node, own in names.items()
            for name in own
            if found & {getattr(n, "id", "") for n in ast.walk(node)}
        }
        if using <= found:
            return {name for name in found if not name.startswith("_")}
        found |= using


def _defined(node: ast.stmt) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
    return [name for target in targets if (name := getattr(target, "id", getattr(target, "name", "")))]


def choose_tests(file: str, line: int, most: int) -> list[str]:
    """Return the unit test files for a line of a file: those that name what it belongs to, then by steps of imports."""
    steps = {module_name(file): 0}
    waiting, importers = deque(steps), read_importers()
    while waiting:
        name = waiting.popleft()
        for importer in importers.get(name, ()):
            if module_name(importer) not in steps:
                steps[module_name(importer)] = steps[name] + 1
                waiting.append(module_name(importer))
    package = file.split("/")[1 if file.startswith("services/") else 0]

    named = re.compile(rf"\b({'|'.join(find_public(Path(file).read_text(), line)) or '$'})\b")

    def order(test: Path) -> tuple[bool, bool, int, bool, int]:
        text, own = test.read_text(), test.parent.name == package
        is_own = test.stem == f"test_{Path(file).stem}" and own
        return named.search(text) is None, not is_own, steps[module_name(test)], not own, len(text)

    tests = [test for test in Path("tests/unit").rglob("test_*.py") if module_name(test) in steps]
    return [str(test) for test in sorted(tests, key=order)[:most]]
