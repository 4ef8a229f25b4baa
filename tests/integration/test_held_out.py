"""Held-out text as a blob of its own, on a real S3 server."""

import uuid

import pytest

from contracts.manifests import HeldOutWindow, VariantManifest
from contracts.vocabulary import Target
from shared.errors import Permanent
from shared.storage.blobs import Store, blob_key, manifest_key
from shared.storage.held_out import erase_held_out, put_held_out, read_held_out
from tests.unit.benchmarker.factories import variant_manifest

TARGET = Target(model="bot", version=1, variant="int8")


@pytest.fixture
def store(settings):
    return Store(settings)


@pytest.fixture
def windows():
    start = uuid.uuid4().int % 100_000
    return tuple(HeldOutWindow(token_ids=(start + n, 7, 9), reference_nll=2.5, nll=2.75) for n in range(3))


def committed(store, windows, prefix=""):
    """Commit a variant that was measured on these windows: (ref, manifest)."""
    manifest = variant_manifest(TARGET, put_held_out(store, windows, prefix))
    key = manifest_key("variant", f"sha256:{uuid.uuid4().hex}", prefix)
    ref, _ = store.put_manifest(key, manifest)
    return ref, VariantManifest.model_validate_json(store.get(ref))


@pytest.mark.parametrize("prefix", ["", "teams/a/"])
def test_the_text_is_read_back_and_the_manifest_has_only_its_digest(store, windows, prefix):
    ref, manifest = committed(store, windows, prefix)
    assert read_held_out(store, ref, manifest) == windows
    data = store.get(ref)
    assert str(windows[0].token_ids[0]).encode() not in data
    assert manifest.held_out_text.digest.encode() in data


def test_erased_text_is_gone_and_no_manifest_changes(store, windows):
    ref, manifest = committed(store, windows)
    before = store.get(ref)
    assert erase_held_out(store, ref, manifest)
    assert store.find(blob_key(manifest.held_out_text.digest)) is None
    assert store.get(ref) == before
    with pytest.raises(Permanent, match="was erased") as caught:
        read_held_out(store, ref, manifest)
    assert caught.value.code == "artifact_not_found"


def test_altered_text_is_refused(store, windows):
    ref, manifest = committed(store, windows)
    key = blob_key(manifest.held_out_text.digest)
    data = store.find(key)
    erase_held_out(store, ref, manifest)
    store.create(key, data.replace(b"2.75", b"2.25"))
    with pytest.raises(Permanent) as caught:
        read_held_out(store, ref, manifest)
    assert caught.value.code == "digest_mismatch"


def test_without_windows_there_is_no_blob(store):
    ref, manifest = committed(store, ())
    assert manifest.held_out_text is None
    assert read_held_out(store, ref, manifest) == ()
