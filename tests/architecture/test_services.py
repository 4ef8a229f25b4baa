"""One shape of all services: frozen settings, one `build`, one `run`, and a `main` that alone reads the environment."""

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

import services
from shared.messaging.bus import Bus
from shared.runtime.clock import Clock

ROOT = Path(__file__).resolve().parents[2]
SERVICES = sorted(module.name for module in pkgutil.iter_modules(services.__path__))
WORKERS = {"worker.py", "quantise_worker.py", "processor.py", "report_worker.py", "wandb_worker.py"}
"""Programs that run as child processes: each reads its own environment, as `main` does."""
RUN_AS_A_FILE = {"wandb_worker.py"}
"""It runs in an environment without our packages, so that `services/__init__.py` is not imported."""

each_service = pytest.mark.parametrize("service", SERVICES)


def class_name(service: str) -> str:
    return "".join(part.capitalize() for part in service.split("_")) + "Settings"


def settings_of(service: str) -> type[BaseSettings]:
    module = importlib.import_module(f"services.{service}.settings")
    settings_class = getattr(module, class_name(service))
    assert issubclass(settings_class, BaseSettings)
    return settings_class


def functions(path: Path) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    nodes = ast.parse(path.read_text()).body
    return {node.name: node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def calls(node: ast.AST, name: str) -> list[ast.Call]:
    return [
        call
        for call in ast.walk(node)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == name
    ]


@each_service
def test_settings_are_frozen_and_have_the_prefix_of_the_service(service):
    config = settings_of(service).model_config
    assert config["frozen"] is True
    assert config["env_prefix"] == f"{service.upper()}_"


@each_service
def test_build_takes_the_bus_then_ports_settings_and_clock_by_keyword(service):
    signature = inspect.signature(importlib.import_module(f"services.{service}.app").build)
    first, *others = signature.parameters.values()
    assert (first.name, first.annotation, first.kind) == ("bus", Bus, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    assert {parameter.kind for parameter in others} == {inspect.Parameter.KEYWORD_ONLY}
    assert [(parameter.name, parameter.annotation) for parameter in others[-2:]] == [
        ("settings", settings_of(service)),
        ("clock", Clock),
    ]
    assert [parameter.name for parameter in others if parameter.default is not inspect.Parameter.empty] == []


@each_service
def test_run_is_async_and_takes_connection_and_settings(service):
    run = functions(ROOT / "services" / service / "main.py")["run"]
    assert isinstance(run, ast.AsyncFunctionDef)
    assert ast.unparse(run.args) == f"connection: Connection, settings: {class_name(service)}"


@each_service
def test_main_alone_reads_the_environment(service):
    main = functions(ROOT / "services" / service / "main.py")["main"]
    assert ast.unparse(main.args) == ""
    names = ("Connection", class_name(service))
    assert [len(calls(main, name)) for name in names] == [1, 1]
    everywhere = [path for path in (ROOT / "services" / service).rglob("*.py") if path.name not in WORKERS]
    for path in everywhere:
        tree = ast.parse(path.read_text())
        expected = 1 if path.name == "main.py" else 0
        assert [len(calls(tree, name)) for name in names] == [expected, expected], path
        assert "environ" not in {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}, path


@each_service
def test_the_module_runs_main(service):
    last = ast.parse((ROOT / "services" / service / "main.py").read_text()).body[-1]
    assert ast.unparse(last) == "if __name__ == '__main__':\n    main()"


@pytest.mark.parametrize(
    "path",
    [path for path in sorted((ROOT / "services").rglob("*.py")) if "\nif __name__ ==" in path.read_text()],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_a_program_searches_for_garbage_once_it_is_imported(path):
    tree = ast.parse(path.read_text())
    assert calls(tree, "finish_imports") or calls(tree, "job_main") or path.name in RUN_AS_A_FILE
