"""Locks hold a hash for everything, and what is wrong with one is found offline (`make lint` looks at them)."""

import re
import shutil
from pathlib import Path

import pytest

from deploy.setup import locks
from tests.kit.wiring import ROOT

REQUIREMENTS = ("requirements", "deploy/docker/requirements")

CPU_BUILDS = {"requirements/torch-cpu.txt": "torch", "requirements/torchvision-cpu.txt": "torchvision"}
"""Kept by hand, because PyTorch's own index is asked for nothing else; the versions are those of the build for CUDA."""


@pytest.mark.parametrize("lock", locks.LOCKS, ids=lambda lock: lock.target)
def test_every_package_has_one_exact_version_and_hashes(lock):
    pins = locks.read_pins((ROOT / lock.target).read_text())
    names = [pin.name for pin in pins]
    assert names
    assert len(set(names)) == len(names)
    assert all("--hash=sha256:" in pin.text for pin in pins)


def test_every_requirements_file_that_is_installed_is_a_lock():
    files = {str(path.relative_to(ROOT)) for folder in REQUIREMENTS for path in (ROOT / folder).glob("*.txt")}
    overrides = {name for name in files if name.endswith("-overrides.txt")}
    assert files - overrides == {lock.target for lock in locks.LOCKS} | set(CPU_BUILDS)


def test_no_lock_names_an_index():
    for folder in REQUIREMENTS:
        for path in (ROOT / folder).glob("*.txt"):
            assert not re.search(r"^--|https?:", path.read_text(), re.MULTILINE), path.name


def test_the_environments_torch_is_in_locks_of_its_own():
    for name in ("main", "engine", "examples"):
        pins = locks.read_pins((ROOT / f"requirements/{name}.txt").read_text())
        assert [pin.name for pin in pins if locks.TORCH.fullmatch(pin.name)] == []
    cuda = {pin.name for pin in locks.read_pins((ROOT / "requirements/torch-cuda.txt").read_text())}
    assert {"torch", "nvidia-cudnn-cu13"} <= cuda
    assert "numpy" not in cuda


@pytest.fixture
def tree(tmp_path) -> Path:
    for folder in REQUIREMENTS:
        shutil.copytree(ROOT / folder, tmp_path / folder)
    return tmp_path


def edit(tree: Path, name: str, before: str, after: str) -> None:
    path = tree / name
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))


def test_a_changed_input_is_found_in_each_lock_that_follows_from_it(tree):
    (tree / "requirements/main.in").write_text((tree / "requirements/main.in").read_text() + "\n# a comment\n")
    (finding,) = locks.findings(tree)
    assert finding.startswith("requirements/main.txt: its inputs have changed")


def test_an_edited_version_is_found(tree):
    edit(tree, "requirements/main.txt", "minio==7.2.20", "minio==7.2.21")
    assert any("edited by hand" in finding for finding in locks.findings(tree))


def test_an_added_hash_is_found(tree):
    edit(tree, "requirements/uv.txt", "    --hash=", f"    --hash=sha256:{'0' * 64} \\\n    --hash=")
    assert len(locks.findings(tree)) == 1


@pytest.mark.parametrize("after", ["minio==7.2.20\n", "minio>=7.2.20 \\\n", "-e .\nminio==7.2.20 \\\n"])
def test_a_line_without_an_exact_version_or_a_hash_is_refused(tree, after):
    edit(tree, "requirements/main.txt", "minio==7.2.20 \\\n", after)
    with pytest.raises(ValueError, match="no exact version or no hash"):
        locks.findings(tree)


def test_builds_for_cpus_have_the_version_of_the_build_for_cuda():
    cuda = locks.read_pins((ROOT / "requirements/torchvision-cuda.txt").read_text())
    versions = {pin.name: pin.version for pin in cuda}
    for path, name in CPU_BUILDS.items():
        (pin,) = locks.read_pins((ROOT / path).read_text())
        assert (pin.name, pin.version) == (name, f"{versions[name]}+cpu")


def test_a_missing_lock_is_found(tree):
    (tree / "requirements/build.txt").unlink()
    assert locks.findings(tree) == ["requirements/build.txt: missing, or without its header"]
