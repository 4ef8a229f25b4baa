"""Doubles: what stands for a port in tests passes the conformance suite of the port, or says why it needs none."""

import ast
import re
from pathlib import Path

from tests.architecture.imported import ROOT, modules_named

DOUBLE = re.compile(r"_?(Fake|Memory|InProcess)\w*")
SUITES_BY_PARAMETER = {"tests/integration/test_registry_ports.py"}
"""Files whose fixtures return the fake and the real thing in turn, instead of a class of the suite for each."""
WITHOUT_SUITE = {
    "tests/kit/fakes_mirror.py:FakeChanges": "a dict and a set; the real bus: test_mirror_mlflow.py",
    "tests/kit/fakes_mirror.py:FakeVersions": "dicts; a real store: test_mirror_mlflow.py",
    "tests/kit/fakes_rollback.py:FakeFlow": "what FakeTraffic returns, in its suite",
    "tests/kit/fakes_rollback.py:FakeProofs": "keeps lists; real chains in a store: test_traffic_proofs.py, test_provenance.py",
    "tests/kit/slow_engine.py:Memory": "a dict; the file of routes: test_repository_files.py, test_routes_restored.py",
    "tests/unit/deploy/backend.py:FakeSender": "Triton's object, no port of ours; real answers: test_triton_vllm.py",
    "tests/unit/gateway/fakes.py:FakeTelemetry": "keeps a list and returns nothing; the recorder: test_telemetry.py",
    "tests/unit/console/test_following.py:FakeConsumer": "loses what a test names; the real bus: test_console.py",
    "tests/unit/console/test_following.py:FakeJetStream": "makes those",
    "tests/unit/console/test_following.py:FakeLog": "a stream that is made again; the real bus: test_console.py",
    "tests/unit/console/world.py:FakeArtifacts": "dicts; a real store: test_provenance.py",
    "tests/unit/console/world.py:FakeClock": "stands still",
    "tests/unit/console/world.py:FakeFleets": "a dict; the real bus: test_console.py",
    "tests/unit/console/world.py:FakeOrders": "keeps a list; the real bus: test_console.py",
    "tests/unit/console/world.py:FakeRoutes": "a dict; the real bucket: test_console.py",
    "tests/unit/evaluator/test_app.py:FakeEndpoint": "answers as a test says; the real engine: test_evaluator.py",
    "tests/unit/evaluator/test_app.py:FakeReports": "a dict; a real store: test_evaluator.py, test_traffic_proofs.py",
    "tests/unit/evaluator/test_evaluate.py:FakeEndpoint": "wrong by chance; the real engine: test_evaluator.py",
    "tests/unit/merger/merging.py:FakeArtifacts": "notes the order of steps; the real steps: test_merger.py, test_merge.py",
    "tests/unit/merger/merging.py:FakeEngine": "the same",
    "tests/unit/merger/merging.py:FakeClock": "stands still",
    "tests/unit/merger/merging.py:FakeTemplates": "the worker's own function, in this process: test_chat_templates.py",
    "tests/unit/server_manager/test_artifact_cache.py:MemoryStore": "the cache on a real store: test_store.py",
}
"""Doubles that run against no suite, each with the reason why that hides nothing."""


def trees() -> dict[str, ast.Module]:
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in sorted((ROOT / "tests").rglob("*.py"))}


def doubles_in(file: str, tree: ast.Module) -> set[str]:
    found = (node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    return {f"{file}:{name}" for name in found if DOUBLE.fullmatch(name)}


def runs_a_suite(file: str, tree: ast.Module) -> bool:
    """Return whether a file has a class of a conformance suite for something real or not."""
    bases = [base for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for base in node.bases]
    return file in SUITES_BY_PARAMETER or any(ast.unparse(base).endswith("Conformance") for base in bases)


def named_in(file: str, tree: ast.Module) -> set[str]:
    """Return the doubles that a file defines or uses, each with the file that defines it."""
    modules, found = modules_named(tree), doubles_in(file, tree)
    for node in ast.walk(tree):
        whole = ""
        if isinstance(node, ast.Name):
            whole = modules.get(node.id, "")
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            whole = f"{modules.get(node.value.id, '')}.{node.attr}"
        module, _, name = whole.rpartition(".")
        if DOUBLE.fullmatch(name):
            found.add(f"{module.replace('.', '/')}.py:{name}")
    return found


def test_a_double_runs_against_a_suite_or_says_why_not():
    files = trees()
    doubles = {double for file, tree in files.items() for double in doubles_in(file, tree)}
    in_suites = {double for file, tree in files.items() if runs_a_suite(file, tree) for double in named_in(file, tree)}
    assert doubles - in_suites == set(WITHOUT_SUITE)


def test_the_files_that_the_reasons_name_exist():
    names = {Path(file).name for file in trees()}
    named = {name for reason in WITHOUT_SUITE.values() for name in re.findall(r"test_\w+\.py", reason)}
    assert named - names == set()
