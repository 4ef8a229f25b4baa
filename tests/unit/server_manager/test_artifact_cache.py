"""The local copies: verified, whole or absent, and removed only when no target needs them."""

import asyncio
import errno
import json
import threading

import pytest

from contracts.manifests import FileEntry, FolderManifest
from contracts.vocabulary import ArtifactRef, Deployable, Target, digest_of
from services.server_manager.adapters.artifact_cache import ArtifactCache, is_intact
from shared.errors import Permanent, Transient
from tests.kit.fakes_serving import AllProven


class MemoryStore:
    """The reading half of a store: manifests by URI, blobs by digest."""

    def __init__(self) -> None:
        self.manifests: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.fetches = 0
        self.full = False
        self.before_fetch = lambda: None
        """Called before files are fetched."""

    def put(self, name, files):
        entries = []
        for path, data in files.items():
            self.blobs[digest_of(data)] = data
            entries.append(FileEntry(path=path, digest=digest_of(data), size_bytes=len(data)))
        data = FolderManifest(files=tuple(entries)).to_bytes()
        return self.put_bytes(name, data)

    def put_bytes(self, name, data):
        uri = f"s3://slipway/manifests/{name}.json"
        self.manifests[uri] = data
        ref = ArtifactRef(uri=uri, digest=digest_of(data), size_bytes=len(data))
        return Deployable(target=Target(model="bot", version=1, variant="bf16"), manifest=ref, weights_bytes=1)

    def get(self, ref):
        if ref.uri not in self.manifests:
            raise Permanent("artifact_not_found", f"{ref.uri} does not exist.")
        return self.manifests[ref.uri]

    def uri(self, key):
        return f"s3://slipway/{key}"

    def prefix_of(self, ref):  # noqa: ARG002
        return ""

    def fetch_files(self, files, destination, prefix="", progress=None):  # noqa: ARG002
        self.before_fetch()
        self.fetches += 1
        for file in files:
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            if file.digest not in self.blobs:
                raise Permanent("artifact_not_found", f"{file.path} does not exist.")
            path = destination / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.blobs[file.digest])
            self.full = self.full or file.path == "fills-the-disk"


@pytest.fixture
def store():
    return MemoryStore()


@pytest.fixture
def cache(store, tmp_path):
    return ArtifactCache(store, tmp_path / "artifacts", check=AllProven(), max_model_len=100)


FILES = {"config.json": b"{}", "deep/weights": b"1" * 1000}


async def test_only_what_describes_a_model_is_fetched_where_its_server_has_the_weights(store, cache):
    stored = store.put("m", FILES)
    texts = await cache.materialise(stored, "texts")
    assert [path.name for path in texts.rglob("*")] == ["config.json"]
    assert (await cache.describe(stored)).context_tokens == 100
    whole = await cache.materialise(stored)
    assert await cache.materialise(stored, "texts") == texts != whole
    assert store.fetches == 2
    await cache.keep_only({stored.manifest.digest})
    assert (texts.is_dir(), whole.is_dir()) == (True, True)
    await cache.keep_only(())
    assert (texts.is_dir(), whole.is_dir()) == (False, False)


@pytest.mark.parametrize("uri", ["s3://slipway/manifests/lora.json", "hf://acme/lora@" + "0" * 40])
async def test_the_lora_that_a_variant_was_made_of_is_fetched_beside_its_texts(store, cache, uri):
    files = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"1", "optimizer.pt": b"2"}
    lora = store.put("lora", files).manifest
    brought = f"s3://slipway/sources/manifests/folder/{lora.digest.removeprefix('sha256:')}.json"
    store.manifests[brought] = store.manifests[lora.uri]
    weights = {"kind": "lora", "ref": {**lora.model_dump(mode="json"), "uri": uri}}
    merged = store.put_bytes("merged", json.dumps({"weights": weights}).encode()).manifest
    variant = json.loads(store.manifests[store.put("variant", FILES).manifest.uri])
    variant["merged"] = merged.model_dump(mode="json")
    stored = store.put_bytes("variant", json.dumps(variant).encode())
    folder = await cache.materialise(stored, "adapter")
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == [
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "config.json",
    ]
    assert await cache.materialise(stored, "adapter") == folder
    assert not (await cache.materialise(stored, "texts") / "adapter").exists()
    base = store.put("base", FILES)
    assert not (await cache.materialise(base, "adapter") / "adapter").exists(), "a model that was not merged has none"


async def test_files_are_there_and_fetched_once(store, cache):
    stored = store.put("m", FILES)
    folder = await cache.materialise(stored)
    assert (folder / "deep" / "weights").read_bytes() == FILES["deep/weights"]
    assert await cache.materialise(stored) == folder
    assert store.fetches == 1


@pytest.mark.parametrize("harm", ["change", "remove", "add"])
async def test_a_harmed_copy_is_fetched_again(store, cache, harm):
    stored = store.put("m", FILES)
    folder = await cache.materialise(stored)
    if harm == "change":
        (folder / "deep" / "weights").write_bytes(b"2" * 1000)
    elif harm == "remove":
        (folder / "config.json").unlink()
    else:
        (folder / "extra").write_text("x")
    await cache.materialise(stored)
    assert store.fetches == 2
    assert is_intact(folder, FolderManifest.model_validate_json(store.get(stored.manifest)).files)


async def test_a_download_that_breaks_off_leaves_no_folder(store, cache, tmp_path):
    stored = store.put("m", FILES)
    del store.blobs[digest_of(FILES["deep/weights"])]
    with pytest.raises(Permanent):
        await cache.materialise(stored)
    assert list((tmp_path / "artifacts").iterdir()) == []


async def test_a_full_disk_says_so_and_gives_the_space_back(store, cache, tmp_path):
    stored = store.put("m", {"config.json": b"{}", "fills-the-disk": b"1", "z": b"2"})
    with pytest.raises(Transient) as caught:
        await cache.materialise(stored)
    assert caught.value.code == "disk_full"
    assert caught.value.reason.endswith(f"left on device: {tmp_path / 'artifacts'} holds what Triton loads.")
    assert list((tmp_path / "artifacts").iterdir()) == []


async def test_a_base_manifest_leads_to_its_folder(store, cache):
    folder = store.put("folder", FILES)
    base = store.put_bytes("base", json.dumps({"folder": folder.manifest.model_dump()}).encode())
    assert ((await cache.materialise(base)) / "config.json").is_file()


@pytest.mark.parametrize("content", [b"no json", b"[]", b"{}", b'{"files": []}', b'{"files": [{"path": "../x"}]}'])
async def test_what_is_no_manifest_is_refused(store, cache, content):
    with pytest.raises(Permanent) as caught:
        await cache.materialise(store.put_bytes("bad", content))
    assert caught.value.code == "malformed_event"


async def test_a_path_out_of_the_folder_is_refused(store, cache, tmp_path):
    evil = {"path": "../../evil", "digest": digest_of(b"x"), "size_bytes": 1}
    with pytest.raises(Permanent):
        await cache.materialise(store.put_bytes("evil", json.dumps({"files": [evil]}).encode()))
    assert not list(tmp_path.rglob("evil"))


async def test_only_copies_that_no_target_needs_are_removed(store, cache, tmp_path):
    kept, dropped = store.put("a", FILES), store.put("b", {"config.json": b"{ }"})
    folders = [await cache.materialise(stored) for stored in (kept, dropped)]
    (tmp_path / "artifacts" / "partial-0123").mkdir()
    await cache.keep_only({kept.manifest.digest})
    assert folders[0].is_dir()
    assert [path.name for path in (tmp_path / "artifacts").iterdir()] == [folders[0].name]


async def test_a_download_under_way_is_not_removed(store, cache):
    stored = store.put("m", FILES)
    begun, go_on = threading.Event(), threading.Event()

    def wait():
        begun.set()
        assert go_on.wait(10)

    store.before_fetch = wait
    loading = asyncio.create_task(cache.materialise(stored))
    await asyncio.to_thread(begun.wait, 10)
    await cache.keep_only(set())
    go_on.set()
    assert ((await loading) / "config.json").is_file()


async def test_description_is_read_from_the_copy(store, cache):
    stored = store.put(
        "m",
        {
            "config.json": b'{"max_position_embeddings": 64}',
            "tokenizer_config.json": b'{"eos_token": "</s>"}',
            "chat_template.jinja": "höflich".encode(),
        },
    )
    await cache.materialise(stored)
    about = await cache.describe(stored)
    assert (about.chat_template, about.eos_token, about.context_tokens) == ("höflich", "</s>", 64)


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("chat_template.jinja", b"\xff\xfe", "utf-8"),
        ("chat_template.jinja", b"x" * 200_001, "200,001 characters"),
        ("tokenizer_config.json", b'{"chat_template": "' + b"x" * 300_000 + b'"}', "300,000 characters"),
        ("tokenizer_config.json", b'{"eos_token": "\\ud800"}', "surrogates"),
        ("tokenizer_config.json", b" " * (32 * 1024 * 1024 + 1), "bytes"),
    ],
)
async def test_files_that_no_event_could_contain_fail_their_own_target_for_good(store, cache, name, content, named):
    stored = store.put("m", {"config.json": b"{}", name: content})
    await cache.materialise(stored)
    with pytest.raises(Permanent) as caught:
        await cache.describe(stored)
    assert caught.value.code == "malformed_event"
    assert str(stored.target) in caught.value.reason
    assert named in caught.value.reason


async def test_a_configuration_that_is_nested_too_deeply_counts_as_none(store, cache):
    stored = store.put("m", {"config.json": b"[" * 100_000, "tokenizer_config.json": b"[" * 100_000})
    await cache.materialise(stored)
    assert (await cache.describe(stored)).context_tokens > 0
