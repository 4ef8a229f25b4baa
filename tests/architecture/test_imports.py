"""Who may import what: the layers, and what the composition roots alone may load."""

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import contracts
import decisions
import services
import shared

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "vllm", "tritonclient", "evidently", "transformers", "peft", "llmcompressor", "awq", "datasets")

IMPORT_WITHOUT = """
import importlib, sys
heavy = set(sys.argv[1].split(","))
class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in heavy:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Forbid())
for name in sys.argv[2:]:
    importlib.import_module(name)
loaded = heavy & {name.split(".")[0] for name in sys.modules}
assert not loaded, loaded
print("imported", len(sys.argv) - 2)
"""


def modules_of(package):
    return [module.name for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]


def light_modules():
    """Everything but adapters, composition roots and the programs that run as children."""
    ours = [*modules_of(contracts), *modules_of(decisions), *modules_of(shared), *modules_of(services)]
    return [name for name in ours if ".adapters" not in name and not name.endswith((".main", "_worker"))]


def import_blocked(*names):
    return subprocess.run(
        [sys.executable, "-c", IMPORT_WITHOUT, ",".join(HEAVY), *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_import_rules_hold():
    lint = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert lint.returncode == 0, lint.stdout + lint.stderr


def test_everything_but_adapters_imports_without_heavy_libraries():
    names = light_modules()
    assert {name.split(".")[0] for name in names} == {"contracts", "decisions", "shared", "services"}
    done = import_blocked(*names)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["imported", str(len(names))]


@pytest.mark.parametrize("name", HEAVY)
def test_the_block_really_blocks(name):
    assert "is blocked" in import_blocked(name).stderr


def test_every_service_has_the_parts_of_a_service():
    missing = []
    for module in pkgutil.iter_modules(services.__path__):
        folder = ROOT / "services" / module.name
        parts = ["README.md", "app.py", "main.py", "settings.py", "ports.py", "adapters/__init__.py"]
        missing += [f"{module.name}/{part}" for part in parts if not (folder / part).is_file()]
        if not (folder / "domain.py").is_file() and not (folder / "domain").is_dir():
            missing.append(f"{module.name}/domain")
    assert missing == []
