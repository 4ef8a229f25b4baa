"""How records change: in one place, versioned; and handlers leave failures to the bus."""

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest

import contracts
import services
from contracts.records import StoredRecord
from tests.architecture.test_files import ROOT, python_files

HANDLES_CONFLICTS = {
    "shared/storage/compare_and_set.py": "the one loop",
    "services/registry/audit.py": "a log is appended by one process at a time: who loses reads it again at the next sweep",
    "services/registry/event_archive.py": "an archive is written by one process at a time, as the audit log",
    "services/rollback_controller/controller.py": "probes the target between reading and writing a route",
    "services/rollback_controller/operator_orders.py": "checks the order between reading and writing a route",
    "services/rollback_controller/rehearsal.py": "writes staging's route through the port that production's goes through",
    "services/server_manager/adapters/kv_state.py": "a lease is tried once: who loses it waits",
}
"""Files that catch Conflict; each of their loops ends with `kept_changing`."""


def catches_conflict(path: Path) -> bool:
    caught = [node.type for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ExceptHandler)]
    caught += [
        argument
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "contextlib.suppress"
        for argument in node.args
    ]
    return any(isinstance(kind, ast.Name) and kind.id == "Conflict" for kind in caught)


def test_conflicts_are_handled_in_the_listed_files_only():
    found = {str(path.relative_to(ROOT)) for path in python_files("shared", "services") if catches_conflict(path)}
    assert found == set(HANDLES_CONFLICTS)


def handlers(path: Path) -> list[ast.AsyncFunctionDef]:
    """Return the functions of a file that are decorated with `bus.on(...)`."""
    return [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.AsyncFunctionDef)
        if any(ast.unparse(decorator).startswith("bus.on(") for decorator in node.decorator_list)
    ]


def test_no_handler_has_a_try():
    apps = [path for path in python_files("services") if path.name == "app.py"]
    found = [handler for path in apps for handler in handlers(path)]
    assert len(found) >= 20
    assert [handler.name for handler in found if any(isinstance(node, ast.Try) for node in ast.walk(handler))] == []


def record_kinds() -> list[type[StoredRecord]]:
    for package in (contracts, services):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if ".domain" in module.name or package is contracts:
                importlib.import_module(module.name)
    found, queue = [], [StoredRecord]
    while queue:
        kind = queue.pop()
        queue += kind.__subclasses__()
        found += [kind] if kind.__module__.split(".")[0] == "services" else []
    return found


def test_every_kind_of_record_can_migrate_from_each_version_that_it_says_it_can():
    kinds = {kind.__name__: kind for kind in record_kinds()}
    assert {"Release", "ModelRecord", "Announcements"} <= set(kinds)
    for kind in kinds.values():
        oldest = min(kind.MIGRATIONS, default=kind.SCHEMA_VERSION)
        assert sorted(kind.MIGRATIONS) == list(range(oldest, kind.SCHEMA_VERSION)), kind


@pytest.mark.parametrize(
    "text", ["try:\n    f()\nexcept Conflict:\n    pass\n", "with contextlib.suppress(Conflict):\n    f()\n"]
)
def test_the_search_finds_what_it_should(text, tmp_path):
    path = tmp_path / "module.py"
    path.write_text(text)
    assert catches_conflict(path)
