"""Checkpoints and bases that are outside the store, processed by the real command, registry and merger."""

import asyncio
import contextlib
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clients.cli.main import main
from contracts.envelope import Event
from contracts.facts import BaseModelRef, CheckpointMerged, CheckpointRejected, ReleaseOpened, WorkProgressed
from contracts.manifests import BaseManifest, FolderManifest, MergedManifest
from contracts.storage.sources import travels
from contracts.vocabulary import ArtifactRef, digest_of
from shared.errors import Permanent, Transient
from shared.messaging.bus import publish_event
from shared.runtime.settings import Connection, SourceSettings
from shared.storage.blobs import SOURCES, Store, manifest_key
from shared.storage.sources import Sources, bring, describe_file
from testbed.models import tiny_base, tiny_lora
from testbed.services import environment, running_service, wait_for_fact
from testbed.stack import DATA_HASH, POLICY
from tests.kit.checkpoints import opened, put_base
from tests.kit.hub import Mirror, running_mirror
from tests.kit.intake import running_intake

pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning"), pytest.mark.timeout(300)]
MIB = 1024 * 1024
MERGER, REGISTRY = "services.merger.main", "services.registry.main"


@dataclass(frozen=True)
class Harness:
    """A hub, a disk, a store, and the models that are stored there.

    Attributes:
        allowed: What operations set, in processes that stay offline otherwise.
    """

    settings: Connection
    store: Store
    mirror: Mirror
    made: dict[str, Path]
    folder: Path
    allowed: dict[str, str]

    def base(self) -> BaseModelRef:
        return put_base(self.store, self.made["base"])

    def slipway(self, *arguments: str, code: int = 0, **changes: str) -> str:
        """Run the command on this bus and store, in this process, and give what it says."""
        output = io.StringIO()
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
        ):
            for name, value in {**environment(self.settings), **self.allowed, **changes}.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["slipway", *arguments])
            with ThreadPoolExecutor(1) as pool, pytest.raises(SystemExit) as ended:  # a command has a loop of its own
                pool.submit(main).result()
        assert ended.value.code == code, output.getvalue()
        return output.getvalue()

    def publish(self, model: str, adapter: str, *more: str, **given: Any) -> str:
        policy = self.folder / "policy.json"
        policy.write_text(json.dumps(POLICY))
        return self.slipway(
            "publish",
            "--model",
            model,
            "--adapter",
            adapter,
            "--base",
            "acme/tiny-llama",
            "--run-id",
            "run-1",
            "--data-hash",
            DATA_HASH,
            "--policy",
            str(policy),
            *more,
            **given,
        )


@pytest.fixture(scope="module", autouse=True)
def _intake(nats_server, s3_server):
    """Who publishes asks the registry for the base model, and where to upload."""
    with running_intake(nats_server, s3_server):
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    base = tiny_base(root / "base")
    lora = tiny_lora(base, root / "lora")
    (lora / "handler.py").write_text("raise SystemExit")
    return {"root": root, "base": base, "lora": lora}


@pytest.fixture(scope="module")
def mirror():
    with running_mirror() as mirror:
        yield mirror


@pytest.fixture
def harness(settings, mirror, made, tmp_path):
    mirror.failing = None
    allowed = {
        "HF_HUB_OFFLINE": "1",
        "SLIPWAY_HF_ENDPOINT": mirror.url,
        "SLIPWAY_FILE_ROOTS": json.dumps([str(made["root"])]),
    }
    return Harness(settings, Store(settings), mirror, made, tmp_path, allowed)


def announced(folder, uri) -> ArtifactRef:
    """Return what a folder is, as a publisher does who knows its files."""
    names = sorted(path.name for path in folder.iterdir() if travels(path.name))
    data = FolderManifest(files=tuple(describe_file(folder / name, name) for name in names)).to_bytes()
    return ArtifactRef(uri=uri, digest=digest_of(data), size_bytes=len(data))


# -- the merger -----------------------------------------------------------------------------------------------------------


async def test_a_lora_in_the_hub_is_merged(js, harness):
    lora = announced(harness.made["lora"], f"hf://acme/lora@{harness.mirror.push('acme/lora', harness.made['lora'])}")
    event, progressed = opened(harness.base(), lora), []

    async def receive(message):
        progressed.append(Event[WorkProgressed].model_validate_json(message.data))

    watch = await js._nc.subscribe(f"{WorkProgressed.TYPE}.support-bot.*", cb=receive)
    with running_service(MERGER, harness.settings, **harness.allowed, MERGER_PROGRESS_INTERVAL_S="0") as service:
        await publish_event(js, event)
        (logged,) = await wait_for_fact(js, CheckpointMerged)
        assert '"level": "error"' not in service.log
    merged = logged.data
    assert merged.parity.mean_kl < 0.01 < merged.parity.effect_kl
    manifest = MergedManifest.model_validate_json(harness.store.get(merged.manifest))
    assert manifest.weights.ref == lora, "where it came from stays in the lineage"
    assert {file.path for file in manifest.files} >= {"model.safetensors", "tokenizer.json", "config.json"}
    assert "handler.py" not in harness.mirror.downloads()
    assert not list((harness.settings.state_dir / "work/merger/scratch").glob("*"))

    await watch.unsubscribe()
    ours = [told for told in progressed if told.correlationid == event.correlationid]
    imported = [told.data for told in ours if told.data.step == "import"]
    assert [told.done for told in imported] == sorted(told.done for told in imported)
    size = sum(path.stat().st_size for path in harness.made["lora"].iterdir() if travels(path.name))
    assert {(told.total, told.unit) for told in imported} == {(float(size), "bytes")}
    assert len(imported) >= 4
    assert imported[-1].done == size


async def test_sources_that_are_not_what_was_announced_are_refused_and_a_hub_that_is_down_is_waited_for(js, harness):
    lora = tiny_lora(harness.made["base"], harness.folder / "lora", seed=11)
    good = announced(lora, f"hf://acme/other@{harness.mirror.push('acme/other', lora)}")
    pickled = harness.mirror.push("acme/pickled", {"adapter_model.bin": b"pickle"})
    expected = {}
    refused = (
        ("digest_mismatch", {"digest": "sha256:" + "1" * 64}),
        ("artifact_not_found", {"uri": f"hf://acme/other@{'0' * 40}"}),
        ("pickle_refused", {"uri": f"hf://acme/pickled@{pickled}"}),
        ("uri_not_allowed", {"uri": lora.as_uri()}),
        ("uri_not_allowed", {"uri": "hf://acme/other@main"}),
    )
    for code, changes in refused:
        event = opened(harness.base(), good.model_copy(update=changes))
        expected[event.id] = code
        await publish_event(js, event)
    with running_service(MERGER, harness.settings, **harness.allowed) as service:
        rejected = await wait_for_fact(js, CheckpointRejected, count=len(expected))
        assert {event.causationid: event.data.code for event in rejected} == expected
        assert all(event.data.reason.count(". ") >= 1 for event in rejected)

        harness.mirror.failing = 503
        await publish_event(js, opened(harness.base(), good))
        async with asyncio.timeout(30):
            while service.log.count("hub_unavailable") < 2:
                await asyncio.sleep(0.05)
        harness.mirror.failing = None
        await wait_for_fact(js, CheckpointMerged)
    assert len(await wait_for_fact(js, CheckpointRejected)) == len(expected)


async def test_a_folder_is_copied_once_and_then_the_hub_is_not_asked(harness):
    lora = tiny_lora(harness.made["base"], harness.folder / "lora", seed=12)
    ref = announced(lora, f"hf://acme/once@{harness.mirror.push('acme/once', lora)}")
    sources, scratch = Sources(SourceSettings(hf_endpoint=harness.mirror.url)), harness.folder / "scratch"

    async def bringing():
        return await asyncio.to_thread(bring, harness.store, sources, ref, scratch)

    replicas = await asyncio.gather(*(bringing() for _ in range(3)))
    harness.mirror.failing = 500
    references = {reference.model_dump_json() for reference in (*replicas, await bringing())}
    (here,) = (ArtifactRef.model_validate_json(reference) for reference in references)
    files = FolderManifest.model_validate_json(harness.store.get(here)).files
    harness.store.fetch_files(files, harness.folder / "back", harness.store.prefix_of(here))
    assert announced(harness.folder / "back", "x").digest == ref.digest
    assert list(scratch.iterdir()) == []


def bytes_told(harness, ref):
    """Copy a folder into the store; return each reported progress as (bytes done, bytes in all)."""
    advances = []
    sources = Sources(SourceSettings(hf_endpoint=harness.mirror.url, file_roots=(harness.folder,)))
    bring(harness.store, sources, ref, harness.folder / "scratch", lambda done, total: advances.append((done, total)))
    return advances


@pytest.mark.parametrize("scheme", ["hf", "file"])
def test_while_a_folder_is_brought_its_bytes_are_told_as_they_travel(harness, scheme):
    """The weights come in pieces of 10 or 4 MiB and go in parts of 16: progress is reported for each, not only at the end."""
    folder = harness.folder / "large"
    folder.mkdir()
    (folder / "config.json").write_bytes(b"{}")
    (folder / "model.safetensors").write_bytes(os.urandom(40 * MIB))
    uri = f"hf://acme/large@{harness.mirror.push('acme/large', folder)}" if scheme == "hf" else folder.as_uri()
    ref, size = announced(folder, uri), 40 * MIB + 2
    advances = bytes_told(harness, ref)
    done = [advance for advance, _ in advances]
    assert {total for _, total in advances} == {size}
    assert done == sorted(set(done))
    assert done[-1] == size
    assert len(done) >= 4 + 3 + 2, "of the weights four pieces and three parts, of the configuration both halves"
    assert max(after - before for before, after in itertools.pairwise([0, *done])) <= 8 * MIB
    assert 2 + 20 * MIB in done, "read and not stored yet is half of the way"
    assert bytes_told(harness, ref) == [], "it is in the store, and nothing travels"


def test_bytes_of_a_download_that_broke_off_and_of_blobs_that_are_there_count_once(harness):
    folder = harness.folder / "again"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(os.urandom(11 * MIB))
    (folder / "tokenizer.json").write_bytes(b"{}")
    harness.store.put_file(folder / "model.safetensors", "model.safetensors", "sources/")
    ref = announced(folder, f"hf://acme/again@{harness.mirror.push('acme/again', folder)}")
    harness.mirror.cut["model.safetensors"] = 10 * MIB + 1000
    advances = bytes_told(harness, ref)
    assert [done for done, _ in advances][-1] == 11 * MIB + 2
    assert [done for done, _ in advances] == sorted(done for done, _ in advances)


@pytest.mark.parametrize(
    ("lie", "answer"), [("changed", (Permanent, "digest_mismatch")), ("failing", (Transient, "hub_unavailable"))]
)
def test_nothing_is_committed_of_a_folder_that_did_not_come_whole(harness, lie, answer):
    lora = tiny_lora(harness.made["base"], harness.folder / "lora", seed=13)
    ref = announced(lora, f"hf://acme/half@{harness.mirror.push('acme/half', lora)}")
    source = Sources(SourceSettings(hf_endpoint=harness.mirror.url))
    if lie == "changed":
        harness.mirror.changed["adapter_model.safetensors"] = b"x"
    else:
        harness.mirror.failing = 500
    try:
        with pytest.raises(answer[0]) as caught:
            bring(harness.store, source, ref, harness.folder / "scratch")
    finally:
        harness.mirror.changed.clear()
    assert caught.value.code == answer[1]
    assert not [key for key in harness.store.keys("sources/manifests/") if ref.digest.removeprefix("sha256:") in key]


FULL_DISK_SCRIPT = """
import json, sys
from pathlib import Path
from contracts.vocabulary import ArtifactRef
from shared.storage.blobs import Store, manifest_key
from shared.errors import SlipwayError
from shared.runtime.settings import Connection, SourceSettings
from shared.storage.sources import Sources, bring

disk, ref = Path(sys.argv[1]), ArtifactRef.model_validate_json(sys.argv[2])
store, sources, advances = Store(Connection()), Sources(SourceSettings()), []

def attempt():
    try:
        return bring(store, sources, ref, disk / "scratch", lambda done, total: advances.append(done)).uri
    except SlipwayError as error:
        return f"{type(error).__name__} {error.code}: {error.reason}"

ballast = disk / "ballast"
ballast.write_bytes(bytes(20 * 1024 * 1024))
full = attempt()
left = [str(path) for path in (disk / "scratch").iterdir()]
committed = [key for key in store.keys("sources/manifests/") if ref.digest.removeprefix("sha256:") in key]
reached = max(advances, default=0.0)
ballast.unlink()
print(json.dumps({"full": full, "left": left, "committed": committed, "reached": reached, "freed": attempt()}))
"""
"""Copies a folder into the store by way of a disk that is full; frees space and copies it again."""
NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")


def on_a_small_disk(disk, size_bytes, command):
    """Return a command that runs with a file system of its own on `disk`, so small that it can be filled for real."""
    mount = 'mount -t tmpfs -o size="$1" small "$2" && shift 2 && exec "$@"'
    return [*NAMESPACE, "sh", "-c", mount, "sh", str(size_bytes), str(disk), *command]


@pytest.fixture
def small_disk(tmp_path):
    """Return a folder to mount on; skip the test if user namespaces are not allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    trial = on_a_small_disk(disk, MIB, ["true"])
    if shutil.which(NAMESPACE[0]) is None or subprocess.run(trial, capture_output=True, check=False).returncode:
        pytest.skip("this machine does not allow a mount in a user namespace")
    return disk


@pytest.mark.parametrize("scheme", ["hf", "file"])
def test_a_disk_that_fills_up_on_the_way_is_said_left_clean_and_waited_for(harness, small_disk, scheme):
    """A file system of 24 MiB with 20 MiB on it; the weights are 12 MiB."""
    folder = harness.folder / "wide"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(os.urandom(12 * MIB))
    uri = f"hf://acme/wide@{harness.mirror.push('acme/wide', folder)}" if scheme == "hf" else folder.as_uri()
    ref = announced(folder, uri)
    variables = {
        **environment(harness.settings),
        **harness.allowed,
        "SLIPWAY_FILE_ROOTS": json.dumps([str(harness.folder)]),
    }
    child = [sys.executable, "-c", FULL_DISK_SCRIPT, str(small_disk), ref.model_dump_json()]
    done = subprocess.run(
        on_a_small_disk(small_disk, 24 * MIB, child), env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["full"].startswith("Transient disk_full: "), answer
    assert "No space left on device" in answer["full"]
    assert (answer["left"], answer["committed"]) == ([], [])
    assert answer["reached"] < 12 * MIB / 2, "less than the whole file was read, and nothing was stored"
    assert answer["freed"] == harness.store.uri(manifest_key("folder", ref.digest, SOURCES))
    files = FolderManifest.model_validate_json(harness.store.get(ref.model_copy(update={"uri": answer["freed"]}))).files
    harness.store.fetch_files(files, harness.folder / "back", SOURCES)
    assert announced(harness.folder / "back", uri) == ref


# -- the command ----------------------------------------------------------------------------------------------------------


async def test_a_person_publishes_a_branch_and_the_release_names_its_commit(js, harness):
    harness.base()
    commit, on_disk = harness.mirror.push("acme/checkpoint", harness.made["lora"]), harness.made["lora"].as_uri()
    output = harness.publish("from-hub", "hf://acme/checkpoint@main")
    assert f"hf://acme/checkpoint@main resolves to hf://acme/checkpoint@{commit}" in output
    published = json.loads(harness.publish("from-disk", on_disk, "--json"))
    assert published["weights"] == announced(harness.made["lora"], on_disk).model_dump(mode="json")
    with running_service(REGISTRY, harness.settings, **harness.allowed):
        for model, uri in (("from-hub", f"hf://acme/checkpoint@{commit}"), ("from-disk", on_disk)):
            (release,) = await wait_for_fact(js, ReleaseOpened, model=model)
            assert release.data.weights.kind == "lora"
            assert release.data.weights.ref == announced(harness.made["lora"], uri)


async def test_places_that_operations_did_not_allow_are_refused_by_name_of_the_setting(js, harness):
    harness.base()
    harness.mirror.push("acme/closed", harness.made["lora"])
    ways = (
        ("from-hub", "hf://acme/closed@main", "SLIPWAY_HF_ENDPOINT"),
        ("from-disk", harness.made["lora"].as_uri(), "SLIPWAY_FILE_ROOTS"),
    )
    for model, adapter, setting in ways:
        assert setting in harness.publish(model, adapter, code=1, **{setting: ""})
        harness.publish(model, adapter)
    with running_service(REGISTRY, harness.settings):
        for model, _, setting in ways:
            (rejected,) = await wait_for_fact(js, CheckpointRejected, model=model)
            assert rejected.data.code == "uri_not_allowed"
            assert setting in rejected.data.reason


def test_a_base_model_is_imported_once_wherever_it_comes_from(harness):
    commit, folder = harness.mirror.push("acme/base", harness.made["base"]), str(harness.made["base"])
    output = harness.slipway("base", "import", "hf://acme/base@main")
    assert f"hf://acme/base@main resolves to hf://acme/base@{commit}" in output
    assert f"imported acme/base at {commit}: LlamaForCausalLM" in output
    manifest = BaseManifest.model_validate_json(harness.store.find(f"bases/acme/base/{commit}.json"))
    assert manifest.folder.digest == announced(harness.made["base"], "x").digest
    assert manifest.source == f"hf://acme/base@{commit}"
    blobs, downloaded = set(harness.store.keys("blobs/")), len(harness.mirror.downloads())

    assert "was already imported, " in harness.slipway("base", "import", f"hf://acme/base@{commit}")
    assert len(harness.mirror.downloads()) == downloaded
    output = harness.slipway("base", "import", folder, "--name", "acme/base")
    assert f"acme/base at {commit} was already imported" in output
    output = harness.slipway("base", "import", folder, "--name", "ours")
    assert "imported ours at " in output
    assert json.loads(harness.slipway("base", "import", folder, "--name", "ours", "--json"))["name"] == "ours"
    assert set(harness.store.keys("blobs/")) == blobs
    assert len([key for key in harness.store.keys("bases/") if "acme/base/" in key or "ours/" in key]) == 2


def test_what_is_no_base_model_in_the_hub_is_refused(harness):
    harness.mirror.push("acme/lora-only", harness.made["lora"])
    assert "--adapter" in harness.slipway("base", "import", "hf://acme/lora-only@main", code=1)
    assert "hf://organisation/name@commit" in harness.slipway("base", "import", "hf://acme/base", code=1)
