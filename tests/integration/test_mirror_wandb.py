"""The mirror and W&B's own client, offline: the run's folder holds the artifact, its manifest and its metadata."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from services.mirror.adapters.wandb import WandbAccess, WandbRegistry
from services.mirror.domain.tags import version_tags
from services.mirror.ports import Unavailable
from tests.kit.histories import deployment, history
from tests.kit.wiring import ROOT

pytestmark = pytest.mark.full
PYTHON = ROOT / ".venv-wandb/bin/python"
READ = '''
import json, pathlib, struct, sys
from wandb.proto import wandb_internal_pb2 as pb

def records(data):
    """Return the records of W&B's log: the format of LevelDB, after a header of seven bytes."""
    position, whole = 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        whole += data[position + 7:position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            yield whole
            whole = b""

logs = pathlib.Path(sys.argv[1]).rglob("run-*.wandb")
for path in sorted(logs, key=lambda log: log.stat().st_mtime_ns):  # two runs of one second have names in any order
    for raw in records(path.read_bytes()):
        record = pb.Record()
        record.ParseFromString(raw)
        if record.WhichOneof("record_type") == "artifact":
            a = record.artifact
            files = {e.path: pathlib.Path(e.local_path).read_text() for e in a.manifest.contents}
            print(json.dumps({"project": a.project, "name": a.name, "type": a.type, "aliases": list(a.aliases),
                              "metadata": json.loads(a.metadata), "description": a.description, "files": files}))
'''


@pytest.fixture(scope="module", autouse=True)
def environment():
    command = [ROOT / "deploy/setup/environment.sh", "wandb"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr


def logged(folder):
    command = [str(PYTHON), "-I", "-c", READ, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


async def test_an_artifact_has_the_metadata_the_card_and_the_manifest(tmp_path):
    registry = WandbRegistry(WandbAccess(PYTHON, "acme/releases", offline=True), tmp_path / "wandb")
    assert await registry.mirrored("support-bot") == []
    put = await registry.put(history(), "state", None)
    assert await registry.mirrored("support-bot") == [put]
    (artifact,) = logged(tmp_path)
    assert (artifact["name"], artifact["type"]) == ("support-bot", "model")
    assert set(artifact["aliases"]) == {"latest", "slipway-v3"}
    assert artifact["metadata"] == version_tags(history())
    assert artifact["files"]["README.md"].startswith("---\nbase_model: ")
    assert json.loads(artifact["files"]["version.json"])["version"] == 3
    assert "slipway verify support-bot@v3" in artifact["description"]


async def test_a_version_with_new_records_is_logged_again_and_a_restart_remembers(tmp_path):
    access = WandbAccess(PYTHON, "releases", offline=True)
    first = await WandbRegistry(access, tmp_path).put(history(), "state", None)
    later = history()
    changed = type(later)(later.manifest, later.digest, deployments=(deployment(cause="rollback"),))
    again = await WandbRegistry(access, tmp_path).put(changed, "state-2", first)
    assert await WandbRegistry(access, tmp_path).mirrored("support-bot") == [again]
    assert ["| rollback |" in each["files"]["README.md"] for each in logged(tmp_path)] == [False, True]


@pytest.mark.parametrize("code", ["raise SystemExit(3)", "import time; time.sleep(60)"])
async def test_a_client_that_fails_or_hangs_is_unavailable_and_nothing_is_noted(tmp_path, code):
    program = tmp_path / "python"
    program.write_text(f"#!{sys.executable}\n{code}\n")
    program.chmod(0o755)
    registry = WandbRegistry(WandbAccess(program, "releases", offline=True, call_s=0.3), tmp_path / "wandb")
    with pytest.raises(Unavailable):
        await registry.put(history(), "state", None)
    assert await registry.mirrored("support-bot") == []


async def test_the_key_is_in_a_file_and_reaches_the_child_alone(tmp_path):
    (tmp_path / "key").write_text("secret-key\n")
    program = tmp_path / "python"
    program.write_text(
        f"#!{sys.executable}\nimport os, pathlib, sys\n"
        f"pathlib.Path({str(tmp_path / 'seen')!r}).write_text(repr((sys.argv, dict(os.environ))))\n"
    )
    program.chmod(0o755)
    access = WandbAccess(program, "releases", key_file=tmp_path / "key", url="https://wandb.example")
    await WandbRegistry(access, tmp_path / "wandb").put(history(), "state", None)
    argv, variables = eval((tmp_path / "seen").read_text())
    assert variables["WANDB_API_KEY"] == "secret-key"
    assert variables["WANDB_BASE_URL"] == "https://wandb.example"
    assert "secret-key" not in "".join(argv)
    assert not [name for name in variables if name.startswith("SLIPWAY_")]
    assert "secret-key" not in (tmp_path / "wandb/mirrored.json").read_text()
    with pytest.raises(Unavailable, match="cannot be read"):
        await WandbRegistry(WandbAccess(program, "x", key_file=Path("/none")), tmp_path).put(history(), "s", None)
