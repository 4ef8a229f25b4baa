"""Locks hold a hash for everything, and what is wrong with one is found offline (`make lint` looks at them)."""

import re
import shutil
from pathlib import Path

import pytest

from deploy.setup import locks
from tests.kit.wiring import ROOT

REQUIREMENTS = ("requirements", "deploy/docker/requirements")


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
    assert files - overrides == {lock.target for lock in locks.LOCKS} | set(locks.CPU_BUILDS)


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


def seal(tree: Path, name: str) -> None:
    """Write the digests of a lock anew, as somebody would who hides an edit."""
    (lock,) = [lock for lock in locks.LOCKS if lock.target == name]
    (tree / name).write_text(locks.render(lock, locks.read_pins((tree / name).read_text()), tree))


def test_a_changed_input_is_found_in_each_lock_that_follows_from_it(tree):
    (tree / "requirements/main.in").write_text((tree / "requirements/main.in").read_text() + "\n# a comment\n")
    assert locks.findings(tree) == ["requirements/main.txt: its inputs have changed"]


def test_an_edited_version_is_found(tree):
    edit(tree, "requirements/main.txt", "minio==7.2.20", "minio==7.2.21")
    assert "requirements/main.txt: edited by hand" in locks.findings(tree)


def test_an_added_hash_is_found(tree):
    edit(tree, "requirements/uv.txt", "    --hash=", f"    --hash=sha256:{'0' * 64} \\\n    --hash=")
    assert locks.findings(tree) == ["requirements/uv.txt: edited by hand"]


@pytest.mark.parametrize("after", ["minio==7.2.20\n", "minio>=7.2.20 \\\n", "-e .\nminio==7.2.20 \\\n"])
def test_a_line_without_an_exact_version_or_a_hash_is_found(tree, after):
    edit(tree, "requirements/main.txt", "minio==7.2.20 \\\n", after)
    assert any("no exact version or no hash" in finding for finding in locks.findings(tree))


def test_a_version_that_an_input_excludes_is_found_behind_right_digests(tree):
    edit(tree, "requirements/main.txt", "minio==7.2.20", "minio==7.1.0")
    seal(tree, "requirements/main.txt")
    assert "requirements/main.txt: does not meet minio>=7.2.20" in locks.findings(tree)


def test_an_image_with_another_version_than_the_project_is_found(tree):
    edit(tree, "deploy/docker/requirements/light.txt", "nats-py==2.16.0", "nats-py==2.17.0")
    seal(tree, "deploy/docker/requirements/light.txt")
    assert locks.findings(tree) == ["deploy/docker/requirements/light.txt: nats-py is 2.16.0 in requirements/main.txt"]


def test_a_build_for_cpus_of_another_version_is_found(tree):
    edit(tree, "requirements/torch-cpu.txt", "2.13.0+cpu", "2.12.0+cpu")
    assert locks.findings(tree) == ["requirements/torch-cpu.txt: holds something else than torch 2.13.0+cpu"]


def test_a_missing_lock_is_found(tree):
    (tree / "requirements/build.txt").unlink()
    assert locks.findings(tree) == ["requirements/build.txt: missing, or without its header"]
