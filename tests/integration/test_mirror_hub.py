"""The mirror and a hub that speaks Hugging Face's protocol: the real client pushes, and pulls by the version's tag."""

import asyncio
import contextlib
import itertools
import json
import uuid

import pytest
from huggingface_hub import ModelCard
from starlette.responses import Response

from contracts.manifests import FileEntry
from services.mirror.adapters.hub import HubAccess, HubRegistry
from services.mirror.adapters.store import StoredWeights
from services.mirror.ports import Refused, StoredFiles, Unavailable
from shared.provenance.version_history import read_version_history
from shared.storage.blobs import Store
from shared.storage.hub import hub_api
from testbed import factories
from testbed.attesters import trust
from testbed.released import release
from tests.kit.conformance_mirror import RegistryConformance
from tests.kit.histories import deployment, history
from tests.kit.hub import running_mirror
from tests.kit.writable_hub import WritableHub

TOKEN = "hf_writes"


class MemoryWeights:
    """Weights in memory (implements `services.mirror.ports.Weights`)."""

    def __init__(self):
        self.content = {"adapter_model.safetensors": b"weights", "adapter_config.json": b"{}"}
        self.fetched = 0

    def files(self, _history, *, merged):
        entries = [
            FileEntry(path=name, digest=factories.digest(name), size_bytes=len(data))
            for name, data in self.content.items()
        ]
        return StoredFiles(factories.digest("merged" if merged else "published"), tuple(entries), "")

    def fetch(self, _files, into):
        self.fetched += 1
        for name, data in self.content.items():
            (into / name).write_bytes(data)


@pytest.fixture(scope="module")
def hub():
    with running_mirror(WritableHub, token=TOKEN) as hub:
        yield hub


@pytest.fixture
def model():
    return f"m-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def weights():
    return MemoryWeights()


@pytest.fixture
def access(hub, tmp_path):
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    return HubAccess(hub.url, "acme/slipway-", tmp_path / "token")


class _Asked(HubRegistry):
    """The registry, with what tests ask and do beside it."""

    hub: WritableHub

    async def shown(self, model):
        tags = {tag: commit for (repo, tag), commit in self.hub.tags.items() if repo == f"acme/slipway-{model}"}
        versions = {commit: int(tag[1:]) for tag, commit in tags.items() if tag[1:].isdecimal()}
        return {tag: versions[commit] for tag, commit in tags.items() if not tag[1:].isdecimal()}

    async def forget(self, model, number):
        del self.hub.tags[f"acme/slipway-{model}", number]


@pytest.fixture
def registry(access, weights, hub, tmp_path):
    registry = _Asked(access, weights, tmp_path)
    registry.hub = hub
    return registry


class TestHub(RegistryConformance):
    pass


async def test_the_weights_and_the_card_are_pulled_by_the_versions_tag(registry, hub, model, tmp_path):
    await registry.put(history(model, 3), "state", None)
    repo = f"acme/slipway-{model}"
    assert hub.private[repo] is True
    api = hub_api(hub.url, TOKEN)
    pulled = api.snapshot_download(repo, revision="v3", local_dir=tmp_path / "pulled", max_workers=1)
    names = {path.name for path in (tmp_path / "pulled").iterdir() if path.is_file()}
    assert names == {".gitattributes", "README.md", "adapter_model.safetensors", "adapter_config.json"}
    card = ModelCard.load(f"{pulled}/README.md")
    assert card.data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert f"# {model} v3" in card.text
    assert (
        hub.commits[repo, hub.branches[repo, "main"]]["README.md"]
        == hub.commits[repo, hub.tags[repo, "v3"]]["README.md"]
    )


async def test_a_card_is_renewed_without_another_upload_of_the_weights(registry, hub, weights, model):
    first = await registry.put(history(model, 1), "state-1", None)
    await registry.put(history(model, 2), "state-2", None)
    weights.fetched = 0
    uploads = list(hub.uploads)
    later = history(model, 1)
    records = (*later.deployments, deployment(model, 1, epoch=9, cause="rollback"))
    changed = type(later)(later.manifest, later.digest, later.benchmarks, deployments=records)
    await registry.put(changed, "state-1b", first)
    repo = f"acme/slipway-{model}"
    files = hub.commits[repo, hub.tags[repo, "v1"]]
    assert "rollback" in files["README.md"].decode()
    assert files["adapter_model.safetensors"] == b"weights"
    assert (weights.fetched, hub.uploads) == (0, uploads)
    assert f"# {model} v2" in hub.commits[repo, hub.branches[repo, "main"]]["README.md"].decode()


@pytest.mark.parametrize("at", range(2, 16, 2))
async def test_a_push_that_was_cut_off_is_done_again(registry, hub, model, at):
    requests = itertools.count()
    hub.on_request = lambda: Response("no", 400) if next(requests) == at else None
    with contextlib.suppress(Refused, Unavailable):
        await registry.put(history(model, 1), "state", None)
    hub.on_request = lambda: None
    put = await registry.put(history(model, 1), "state", None)
    assert await registry.mirrored(model) == [put]


async def test_a_repository_of_others_or_a_public_one_is_left_alone(registry, hub, model):
    repo = f"acme/slipway-{model}"
    hub.private[repo] = True
    hub.push(repo, {"model.safetensors": b"theirs"})
    with pytest.raises(Refused, match="was not made by Slipway"):
        await registry.mirrored(model)
    hub.private[repo] = False
    with pytest.raises(Refused, match="is public"):
        await registry.mirrored(model)
    assert hub.commits[repo, hub.branches[repo, "main"]] == {"model.safetensors": b"theirs"}


async def test_a_hub_that_refuses_or_is_gone_is_unavailable_and_no_text_holds_the_token(registry, hub, model, tmp_path):
    (tmp_path / "token").write_text("hf_wrong")
    with pytest.raises(Unavailable, match="401") as caught:
        await registry.mirrored(model)
    assert "hf_wrong" not in caught.value.reason
    gone = HubRegistry(HubAccess("http://127.0.0.1:1", "acme/"), MemoryWeights(), tmp_path)
    with pytest.raises(Unavailable, match="does not answer"):
        await gone.mirrored(model)


async def test_what_the_store_holds_is_what_the_hub_gets(settings, tmp_path, hub, access, model):
    """Read with the mirror's key of the store, which lists no more than versions."""
    released = await asyncio.to_thread(release, Store(settings), tmp_path, model, 2)
    own = settings.s3_credentials.with_name("mirror.s3")
    store = Store(settings.model_copy(update={"s3_credentials": own}))
    made = read_version_history(store, trust(tmp_path).keys(), model, 2)
    for merged, name in ((False, "adapter.safetensors"), (True, "model.safetensors")):
        reached = HubAccess(access.endpoint, f"acme/{merged}-".lower(), access.token_file, merged)
        await HubRegistry(reached, StoredWeights(store), tmp_path).put(made, "state", None)
        repo = f"acme/{merged}-{model}".lower()
        files = hub.commits[repo, hub.tags[repo, "v2"]]
        assert released.manifest.model.encode() in files[name]
        assert json.loads(hub.commits[repo, hub.branches[repo, "main"]]["slipway.json"])["model"] == model
