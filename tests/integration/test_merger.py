"""The merger as a process of its own, on a real bus and a real store, with tiny real models."""

import asyncio
import contextlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from contracts.envelope import Event
from contracts.facts import BaseModelRef, CheckpointMerged, CheckpointRejected, ReleaseOpened, WorkProgressed
from contracts.manifests import MergedManifest
from contracts.services import EVENTS
from contracts.vocabulary import ArtifactRef, ServingSettings
from shared.messaging.bus import publish_event
from shared.runtime.process import memory_bytes
from shared.storage.blobs import Store
from testbed.models import tiny_base, tiny_full, tiny_lora
from testbed.services import running_service, wait_for_fact
from tests.kit.checkpoints import opened, put_base, put_folder

pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning"), pytest.mark.timeout(300)]
MODULE = "services.merger.main"
FOLDER = "checkpoints/support-bot/"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    base = tiny_base(root / "base")
    return {"base": base, "lora": tiny_lora(base, root / "lora"), "full": tiny_full(base, root / "full")}


@dataclass(frozen=True)
class Harbour:
    """A store with an imported base, and models to publish."""

    store: Store
    base: BaseModelRef
    made: dict[str, Path]
    folder: Path

    def new_lora(self, seed: int) -> ArtifactRef:
        return self.put(tiny_lora(self.made["base"], self.folder / f"lora-{seed}", seed=seed))

    def with_another_blob(self, seed: int) -> ArtifactRef:
        """Store a LoRA whose weights are not what its manifest says."""
        ref = self.new_lora(seed)
        content = json.loads(self.store.get(ref))
        weights = next(file for file in content["files"] if file["path"].endswith("safetensors"))
        key = f"{FOLDER}blobs/sha256/{weights['digest'][7:9]}/{weights['digest'][7:]}"
        self.store._client.remove_object(bucket_name="slipway", object_name=key)
        self.store.create(key, b"something else")
        return ref

    def put(self, folder: Path) -> ArtifactRef:
        return put_folder(self.store, folder, FOLDER)

    def manifest_of(self, event) -> MergedManifest:
        return MergedManifest.model_validate_json(self.store.get(event.data.manifest))


@pytest.fixture
def harbour(settings, made, tmp_path):
    store = Store(settings)
    return Harbour(store, put_base(store, made["base"]), made, tmp_path)


async def drained(js):
    """Wait until every message was acknowledged."""
    async with asyncio.timeout(30):
        while True:
            info = await js.consumer_info(EVENTS, "merger__release-opened-v1")
            if info.num_pending == 0 and info.num_ack_pending == 0:
                return
            await asyncio.sleep(0.1)


async def test_merges_lora_and_full_and_rejects_what_is_bad_beside_an_unreadable_event(js, settings, harbour):
    """One service: progress, settings of the file and of the event, what was merged already, and each rejection."""
    await js.publish(f"{ReleaseOpened.TYPE}.support-bot.registry", b"{not json", headers={"Nats-Msg-Id": "broken"})
    expected = await publish_bad(js, harbour)
    folder = harbour.folder / "lora"
    shutil.copytree(harbour.made["lora"], folder)
    (folder / "serving.json").write_text('{"reasoning_parser": "qwen3", "context_tokens": 64}')
    lora = opened(harbour.base, harbour.put(folder))
    progress = asyncio.Queue()
    watch = await js._nc.subscribe(f"{WorkProgressed.TYPE}.support-bot.*", cb=progress.put)
    with running_service(MODULE, settings, MERGER_PROGRESS_INTERVAL_S="0") as service:
        await publish_event(js, lora)
        (merged,) = await wait_for_fact(js, CheckpointMerged)
        manifest = harbour.manifest_of(merged)
        assert merged.causationid == lora.id
        assert manifest.parity == merged.data.parity
        assert manifest.parity.mean_kl < 0.01 < manifest.parity.effect_kl
        assert manifest.rendered_prompt_digest
        assert manifest.method.dtype == "bfloat16"
        assert manifest.peak_rss_bytes > 50_000_000
        assert {file.path for file in manifest.files} >= {"model.safetensors", "tokenizer.json", "config.json"}
        assert merged.data.serving == manifest.serving == ServingSettings(reasoning_parser="qwen3", context_tokens=64)
        steps = {
            Event[WorkProgressed].model_validate_json((await progress.get()).data).data.step
            for _ in range(progress.qsize())
        }
        assert steps >= {"download", "check", "merge", "upload", "verify"}
        await watch.unsubscribe()

        rejected = await wait_for_fact(js, CheckpointRejected, count=len(expected))
        assert {event.causationid: event.data.code for event in rejected} == expected
        assert all(len(event.data.reason) > 20 for event in rejected)

        same = opened(harbour.base, lora.data.weights.ref)
        shorter = lora.data.model_copy(update={"serving": ServingSettings(context_tokens=32)})
        impossible = lora.data.model_copy(update={"serving": ServingSettings(tool_parser="hermes")})
        for event in (same, again(lora, "e2", shorter), again(lora, "e3", impossible)):
            await publish_event(js, event)
        _, second, other = await wait_for_fact(js, CheckpointMerged, count=3, timeout_s=10)  # without torch
        assert second.data.manifest == merged.data.manifest
        assert second.correlationid == same.correlationid
        other_manifest = harbour.manifest_of(other)
        assert other.data.serving == other_manifest.serving
        assert other.data.serving == ServingSettings(reasoning_parser="qwen3", context_tokens=32)
        assert (other_manifest.settings_of, other_manifest.files) == (merged.data.manifest, manifest.files)
        *_, last = await wait_for_fact(js, CheckpointRejected, count=len(expected) + 1)
        assert (last.causationid, last.data.code) == ("e3", "tools_not_rendered")
        assert "leaves the tool, the tool's call" in last.data.reason

        await publish_event(js, opened(harbour.base, harbour.put(harbour.made["full"]), kind="full"))
        *_, third = await wait_for_fact(js, CheckpointMerged, count=4)
        assert third.data.parity.max_abs_logit_difference == 0.0
        assert (await js.stream_info("SLIPWAY_DEADLETTER")).state.messages == 1
        assert not list((settings.state_dir / "work/merger/scratch").glob("*"))
        assert service.log.count('"level": "error"') == len(expected) + 2, (
            "the unreadable event's, and each rejection's"
        )
        await drained(js)


async def publish_bad(js, harbour) -> dict[str, str]:
    """Publish releases of bad checkpoints; return the code of each event's rejection (the others: tests/unit/merger)."""
    folder = harbour.folder / "pickle"
    shutil.copytree(harbour.made["lora"], folder)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    good, base = harbour.new_lora(9), harbour.base
    absent = good.model_copy(update={"uri": good.uri.replace("manifests/folder/", "manifests/folder/0")})
    no_base = base.model_copy(update={"uri": "s3://slipway/manifests/folder/none.json"})
    expected = {}
    for event, code in (
        (opened(base, harbour.put(folder)), "pickle_refused"),
        (opened(base, absent), "artifact_not_found"),
        (opened(base, good.model_copy(update={"digest": "sha256:" + "1" * 64})), "digest_mismatch"),
        (opened(base.model_copy(update={"digest": "sha256:" + "2" * 64}), good), "base_mismatch"),
        (opened(no_base, good), "unknown_base"),
        (opened(base, harbour.with_another_blob(21)), "digest_mismatch"),
    ):
        expected[event.id] = code
        await publish_event(js, event)
    return expected


def again(event, event_id, data):
    """Return an event like another, with an id and data of its own."""
    return event.model_copy(update={"id": event_id, "data": data})


async def test_kill_9_in_the_middle_of_a_merge_leaves_no_child_and_no_half_artifact(js, settings, harbour):
    event = opened(harbour.base, harbour.new_lora(77))
    working = asyncio.Event()

    async def on_progress(_message):
        working.set()

    watch = await js._nc.subscribe(f"{WorkProgressed.TYPE}.support-bot.*", cb=on_progress)
    before = set(harbour.store.keys("manifests/merged/"))
    with running_service(MODULE, settings) as service:
        await publish_event(js, event)
        async with asyncio.timeout(60):
            await working.wait()
            while not (children := worker_pids(service.pid)):
                await asyncio.sleep(0.02)
        limits = [psutil.Process(pid).rlimit(psutil.RLIMIT_DATA) for pid in children]
        assert limits == [(memory_bytes(), memory_bytes())]
        service.kill()
        async with asyncio.timeout(10):
            while any(alive(pid) for pid in children):
                await asyncio.sleep(0.05)
        assert set(harbour.store.keys("manifests/merged/")) == before
        service.start()
        (merged,) = await wait_for_fact(js, CheckpointMerged)
        assert harbour.manifest_of(merged).files
        assert not list((settings.state_dir / "work/merger/scratch").glob("*"))
    await watch.unsubscribe()


def worker_pids(pid):
    with contextlib.suppress(psutil.NoSuchProcess):
        return [
            child.pid
            for child in psutil.Process(pid).children(recursive=True)
            if "services.merger.adapters.worker" in child.cmdline()
        ]
    return []


def alive(pid):
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False
