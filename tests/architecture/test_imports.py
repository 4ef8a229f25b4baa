"""Adapters, composition roots and workers alone load heavy libraries."""

import pkgutil
import subprocess
import sys
from pathlib import Path

import contracts
import decisions
import services
import shared

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "vllm", "tritonclient", "evidently", "transformers", "peft", "llmcompressor", "awq", "datasets")
CLIENTS = ("minio", "nats", "structlog", "faststream")
CONFINED = ("services.merger.adapters.worker", "services.quantiser.adapters.quantise_worker")
"""Workers without key and network: they start sooner without what a service needs for both."""

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


def import_blocked(*names, blocked=HEAVY):
    return subprocess.run(
        [sys.executable, "-c", IMPORT_WITHOUT, ",".join(blocked), *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_everything_but_adapters_imports_without_heavy_libraries():
    names = light_modules()
    assert {name.split(".")[0] for name in names} == {"contracts", "decisions", "shared", "services"}
    done = import_blocked(*names)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["imported", str(len(names))]


def test_confined_workers_begin_without_heavy_libraries_and_clients():
    done = import_blocked(*CONFINED, blocked=(*HEAVY, *CLIENTS))
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_block_blocks():
    assert "torch is blocked" in import_blocked("torch").stderr
