"""No mocks: a fake is written and passes the conformance suite of its port, and no test replaces our code with another."""

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.architecture.imported import ROOT, modules_named

OURS = ("contracts", "shared", "services", "clients", "deploy", "decisions", "examples", "benchmarks", "testbed")
MOCKS = {"mock", "unittest.mock", "pytest_mock", "mocker"}
MOCK_NAMES = {"Mock", "MagicMock", "AsyncMock", "create_autospec", "mocker"}
MAY_MOCK = re.compile("mock|create_autospec", re.IGNORECASE)
"""What a file with one of these has in its text; parsing all takes seven seconds."""
LIMIT = re.compile(r"_?[A-Z][A-Z0-9_]*")
"""A constant: tests may lower a limit, so that they need not send gigabytes."""
REPLACED = {
    ("test_audit_log.py", "failpoint"): "the real one kills the process that all tests of a worker run in",
    ("test_engine_calls.py", "_write_files"): "pauses between two real steps, which no fake of a port could",
    (
        "stopping_manager.py",
        "AgentClient",
    ): "stops the process between two real steps, which nothing outside could time",
    ("forked_stack.py", "popen"): "of a stack: its parts are forked, for the processor time of their starts",
    ("attached.py", "names"): "of the world: each process sees what the attached servers list",
    ("story.py", "?"): "of the world: what was parsed is kept, and defects that are put back are to be found",
    ("test_merge.py", "_merge"): "a merge that does nothing shows that the comparison can fail",
    ("test_quantise_int4.py", "SafeAwqQuantizer"): "watches the real one, and runs the defect that it corrects",
    ("test_gc.py", "SystemClock"): "the command's clock: a week and the wait of a plan pass at once",
    ("test_gateway_connections.py", "capture_signals"): "of uvicorn's server: pytest keeps the signals of its process",
    ("vllm_plugin.py", "__init__"): "of vLLM's test server: it starts none, because one is there",
    ("vllm_plugin.py", "_shutdown"): "of vLLM's test server, which did not start one",
    ("test_rollback_ports.py", "close"): "of asyncio's server: closes the connections that it took too",
    ("test_history.py", "silent"): "watches the real one: in which thread a page asks",
    ("test_prepare.py", "connect"): "watches the real one",
    ("test_prepare.py", "request"): "of the client of NATS: watches the real one",
}
"""Functions and classes of ours that a test replaces, or that are called like ours, each with its reason."""


def files() -> list[Path]:
    return sorted(path for folder in ("tests", "testbed") for path in (ROOT / folder).rglob("*.py"))


@cache
def our_methods() -> frozenset[str]:
    """Return the names of the methods of our classes and fakes, without properties and fixtures."""
    return frozenset(
        node.name
        for folder in (*OURS, "tests")
        for path in (ROOT / folder).rglob("*.py")
        for owner in ast.walk(ast.parse(path.read_text()))
        if isinstance(owner, ast.ClassDef) and not owner.name.startswith("Test")
        for node in owner.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and not any(re.search("property|setter|fixture", ast.unparse(mark)) for mark in node.decorator_list)
    )


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


def assignments(tree: ast.AST) -> Iterator[tuple[ast.expr, str, ast.expr]]:
    """Yield what sets an attribute: the object, the attribute's name ("?" if it is not a constant), the value."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                pairs: Iterable[tuple[ast.expr, ast.expr]] = [(target, node.value)]
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = zip(target.elts, node.value.elts, strict=False)
                for left, value in pairs:
                    if isinstance(left, ast.Attribute):
                        yield left.value, left.attr, value
                    elif isinstance(left, ast.Subscript) and (of := attributes_of(left.value)):
                        yield of, constant(left.slice), value
        elif isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Name | ast.Attribute) and SETTER.search(ast.unparse(called)):
                yield node.args[0], constant(node.args[1]), node.args[-1]
            elif isinstance(called, ast.Attribute) and called.attr == "update" and (of := attributes_of(called.value)):
                yield of, "?", node


SETTER = re.compile(r"^setattr$|^object\.__setattr__$")


def constant(node: ast.expr) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else "?"


def attributes_of(node: ast.expr) -> ast.expr | None:
    """Return the object of `vars(object)` or `object.__dict__`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "vars" and node.args:
        return node.args[0]
    return node.value if isinstance(node, ast.Attribute) and node.attr == "__dict__" else None


def may_be_called(value: ast.expr, callables: set[str]) -> bool:
    """Return whether a value may be a function: a name or attribute that is no constant, a lambda, what is made of them."""
    if isinstance(value, ast.IfExp):
        return may_be_called(value.body, callables) or may_be_called(value.orelse, callables)
    if isinstance(value, ast.Call):
        return isinstance(value.func, ast.Name | ast.Attribute) and last_name(value.func) in callables
    if isinstance(value, ast.Name | ast.Attribute):
        return not LIMIT.fullmatch(last_name(value))
    return isinstance(value, ast.Lambda)


def last_name(node: ast.Name | ast.Attribute) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr


def callable_classes(tree: ast.AST) -> set[str]:
    """Return the classes of a file whose objects can be called, and `partial`."""
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    return {"partial"} | {
        owner.name for owner in classes if "__call__" in {getattr(node, "name", "") for node in owner.body}
    }


def replaced_in(source: str) -> list[str]:
    """Return the functions and classes of ours that a file replaces.

    By `monkeypatch`, or by assignment to a module: what is not known to be another library's counts as ours. By
    assignment to an object: a name of our methods gets what may be a function, or any name gets something.
    """
    tree = ast.parse(source)
    modules, callables, names = modules_named(tree), callable_classes(tree), []

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
                note(root_of(first), constant(second))
    for target, name, value in assignments(tree):
        holder = root_of(target)
        if holder in modules:
            note(holder, name)
        elif holder != "self" and (name == "?" or (name in our_methods() and may_be_called(value, callables))):
            names.append(name)
    return names


def test_no_test_uses_a_mock():
    sources = {path.name: source for path in files() if MAY_MOCK.search(source := path.read_text())}
    assert {name: mocks for name, source in sources.items() if (mocks := mocks_in(source))} == {}


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
        ("world.engine.load = fail", ["load"]),
        ("engine.down, engine.load = True, fail", ["load"]),
        ("world.lead.confirm = lambda: None", ["confirm"]),
        ("from functools import partial\nengine.index = partial(f, 1)", ["index"]),
        ("class Silent:\n    def __call__(self): ...\nengine.index = Silent()", ["index"]),
        ("engine.index = Silent() if error else index", ["index"]),
        ("setattr(world.engine, 'load', fail)", ["load"]),
        ("setattr(world.engine, what, fail)", ["?"]),
        ("object.__setattr__(world.engine, 'load', fail)", ["load"]),
        ("vars(world.engine).update(load=fail)", ["?"]),
        ("vars(world.engine)['load'] = fail", ["load"]),
        ("world.engine.__dict__['load'] = fail", ["load"]),
        ("world.engine.down = True", []),
        ("setattr(world.engine, 'mode', 'silent')", []),
        ("walk.now = k.EXPIRES", []),
        ("proxy.instead = refuse", []),
    ],
)
def test_what_replaces_our_code_is_found(source, names):
    assert replaced_in(source) == names
