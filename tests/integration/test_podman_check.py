"""What `deploy/docker/check-podman.sh` says where podman starts no container; needs podman, and root."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.kit.wiring import ROOT

SCRIPT = ROOT / "deploy/docker/check-podman.sh"
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("podman", "catatonit"))), reason="no podman, or not root"
)


def check(**variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPT)], env={**os.environ, **variables}, capture_output=True, text=True, check=False, timeout=120
    )


def test_a_runtime_that_starts_no_container_is_named_with_the_way_to_another(tmp_path: Path):
    settings = tmp_path / "containers.conf"
    settings.write_text('[engine]\nruntime = "none"\n[engine.runtimes]\nnone = ["/nowhere/none"]\n')
    done = check(CONTAINERS_CONF_OVERRIDE=str(settings), TMPDIR=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("podman cannot start a container: ")
    assert "runc" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["containers.conf"]


def test_a_program_that_is_not_installed_is_named_with_the_packages_of_debian(tmp_path: Path):
    for name in ("podman", "sh"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    script = SCRIPT.read_text().replace(":/usr/libexec/podman:/usr/lib/podman", "")
    done = subprocess.run(
        ["/bin/sh", "-c", script], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("catatonit is not installed. On Debian: apt-get install")
