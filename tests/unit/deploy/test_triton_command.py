"""The command line and environment of tritonserver, and the layout of its backends."""

from pathlib import Path

import pytest

from contracts.vocabulary import Runtime
from deploy.local import triton
from deploy.local.triton import (
    EngineEnvironment,
    Ports,
    build_command,
    build_environment,
    find_engine,
    prepare_run_folder,
)

ENGINE = EngineEnvironment(Path("/venv"), Path("/venv/lib/site-packages"), Path("/python/lib"), "3.11")
PORTS = Ports(http=1, grpc=2, metrics=3)


def test_every_address_is_loopback_and_every_port_given():
    command = build_command(ENGINE, Path("/run"), PORTS)
    assert command[0] == "/venv/lib/site-packages/pytriton/tritonserver/bin/tritonserver"
    for kind, port in (("http", 1), ("grpc", 2), ("metrics", 3)):
        assert f"--{kind}-address=127.0.0.1" in command
        assert f"--{kind}-port={port}" in command


def test_models_are_loaded_only_when_told_and_configured_only_by_us():
    command = build_command(ENGINE, Path("/run"), PORTS)
    assert "--model-control-mode=explicit" in command
    assert "--disable-auto-complete-config" in command
    assert "--model-repository=/run/models" in command
    assert "--backend-directory=/run/backends" in command


def test_an_admin_key_restricts_model_control_on_both_protocols():
    assert not [part for part in build_command(ENGINE, Path("/run"), PORTS) if "restricted" in part]
    command = build_command(ENGINE, Path("/run"), PORTS, admin_key="k")
    assert "--http-restricted-api=model-repository:X-Admin=k" in command
    assert "--grpc-restricted-protocol=model-repository:admin-key=k" in command


def test_environment_points_at_the_engine_and_marks_its_processes():
    inherited = {"PATH": "/bin", "PYTHONPATH": "/else", "HOME": "/h", "LC_ALL": "POSIX"}
    environment = build_environment(ENGINE, Path("/run"), inherited)
    assert environment["PATH"] == "/venv/bin:/bin"
    assert environment["VIRTUAL_ENV"] == "/venv"
    assert environment["LD_LIBRARY_PATH"] == "/python/lib:/venv/lib/site-packages/nvidia_pytriton.libs"
    assert environment["LC_ALL"] == "C.UTF-8"
    assert environment["HOME"] == "/h"
    assert environment[triton.MARKER] == "/run"
    assert "PYTHONPATH" not in environment


@pytest.fixture
def engine(tmp_path):
    """The files of an engine environment that laying out needs."""
    root = EngineEnvironment(tmp_path / "venv", tmp_path / "venv" / "sp", tmp_path, "3.11")
    for path in (
        root.server,
        root.triton / "backends" / "python" / "libtriton_python.so",
        root.triton / "backends" / "python" / "triton_python_backend_utils.py",
        root.triton / "python_backend_stubs" / "3.11" / "triton_python_backend_stub",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return root


def test_layout_holds_stub_and_every_engine_with_the_shared_tensors(engine, tmp_path):
    state = tmp_path / "run"
    prepare_run_folder(engine, state)
    stub = state / "backends" / "python" / "triton_python_backend_stub"
    assert stub.stat().st_mode & 0o100
    assert engine.server.stat().st_mode & 0o100
    for backend in ("slipway", "toy"):
        assert (state / "backends" / backend / "model.py").is_file()
        assert (state / "backends" / backend / "engine_tensors.py").is_file()
        assert (state / "backends" / backend / "stub_guard.py").is_file()
    assert (state / "backends" / "slipway" / "engine_child.sh").stat().st_mode & 0o100
    assert (state / "models").is_dir()


def test_layout_again_drops_what_is_no_longer_there_but_no_model(engine, tmp_path):
    state = tmp_path / "run"
    prepare_run_folder(engine, state)
    (state / "backends" / "old").mkdir()
    (state / "models" / "bot.v1.bf16").mkdir()
    prepare_run_folder(engine, state)
    assert not (state / "backends" / "old").exists()
    assert (state / "models" / "bot.v1.bf16").is_dir()


def test_an_environment_without_triton_is_named(tmp_path):
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text('#!/bin/sh\necho \'{"site_packages": "/none", "libdir": "/l", "version": "3.11"}\'\n')
    python.chmod(0o755)
    with pytest.raises(FileNotFoundError, match="no tritonserver"):
        find_engine(tmp_path)


@pytest.fixture
def environment(tmp_path):
    """Two packages with their records, and a folder of backends."""
    site, backends = tmp_path / "site", tmp_path / "backends"
    for name, record in {
        "vllm-0.20.1": "vllm/a.py,sha256=aa,1\n../../../bin/vllm,sha256=bb,1\nvllm/__pycache__/a.pyc,,\n",
        "torch-2.13.0": "torch/a.so,sha256=cc,1\ntorch-2.13.0.dist-info/INSTALLER,sha256=dd,1\n",
    }.items():
        (site / f"{name}.dist-info").mkdir(parents=True)
        (site / f"{name}.dist-info" / "RECORD").write_text(record)
    (backends / "slipway").mkdir(parents=True)
    (backends / "slipway" / "model.py").write_text("one")
    (backends / "slipway" / "engine_child.sh").write_text("one")
    (backends / "stub").write_bytes(b"\0binary")
    return triton.EngineEnvironment(tmp_path, site, tmp_path, "3.11"), backends


def change(root, path, text):
    (root / path).parent.mkdir(exist_ok=True)
    (root / path).write_text(text)


TORCH, VLLM = "site/torch-2.13.0.dist-info/RECORD", "site/vllm-0.20.1.dist-info/RECORD"
CHANGES = {
    "a file of Python": ("backends/slipway/model.py", "two"),
    "a script": ("backends/slipway/engine_child.sh", "two"),
    "a binary": ("backends/stub", "two"),
    "a new file": ("backends/slipway/new.json", "{}"),
    "a new package": ("site/numpy-1.26.dist-info/RECORD", ""),
    "the same version with another file": (TORCH, "torch/a.so,sha256=ee,1\n"),
    "a path file": ("site/extra.pth", "/else"),
}
PLACES = {
    "a script that names its interpreter": (VLLM, "vllm/a.py,sha256=aa,1\n../../../bin/vllm,sha256=ff,1\n"),
    "the installer": (TORCH, "torch-2.13.0.dist-info/INSTALLER,,\ntorch/a.so,sha256=cc,1\n"),
    "a compiled file": ("backends/slipway/__pycache__/model.pyc", "x"),
}


def test_a_runtime_has_its_versions_and_a_digest(environment):
    engine, backends = environment
    runtime = Runtime.model_validate(triton.describe_runtime(engine, backends))
    assert (runtime.engine, runtime.engine_version) == ("vllm", "0.20.1 (torch 2.13.0)")
    assert runtime.digest == triton.digest_environment(engine, backends)


@pytest.mark.parametrize("what", CHANGES)
def test_the_digest_of_a_runtime_covers(environment, tmp_path, what):
    engine, backends = environment
    before = triton.digest_environment(engine, backends)
    change(tmp_path, *CHANGES[what])
    assert triton.digest_environment(engine, backends) != before


@pytest.mark.parametrize("what", PLACES)
def test_the_digest_of_a_runtime_does_not_depend_on(environment, tmp_path, what):
    engine, backends = environment
    before = triton.digest_environment(engine, backends)
    change(tmp_path, *PLACES[what])
    assert triton.digest_environment(engine, backends) == before


def test_the_run_folder_says_what_the_runtime_is_with_all_its_backends(engine, tmp_path):
    prepare_run_folder(engine, tmp_path / "run")
    written = Runtime.model_validate_json((tmp_path / "run" / triton.RUNTIME_FILE).read_bytes())
    assert written.digest == triton.digest_environment(engine, tmp_path / "run" / "backends")
