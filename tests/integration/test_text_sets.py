"""Calibration and evaluation sets in a real store: one file, or a folder of them; what is not theirs is found out."""

import uuid

import pytest

from shared.errors import Permanent
from shared.storage.blobs import Store, blob_key


@pytest.fixture
def store(settings):
    return Store(settings)


@pytest.fixture
def folder(store, tmp_path):
    """Return a manifest and the ref of a folder of two files of text, in a prefix of its own, and a file that is none."""
    (tmp_path / "sets").mkdir()
    for name, text in {"b.jsonl": '"three"', "a.jsonl": '"one"\n"two"\n', "README.md": "about"}.items():
        (tmp_path / "sets" / name).write_text(text)
    prefix = f"{uuid.uuid4().hex}/"
    manifest = store.put_folder(tmp_path / "sets", prefix)
    ref, _ = store.put_manifest(f"{prefix}manifests/sets/one.json", manifest)
    return manifest, ref, prefix


def test_a_set_of_one_file_is_that_file(store):
    ref = store.create(f"sets/{uuid.uuid4().hex}.jsonl", b'"one"\n')
    assert store.get_texts(ref) == b'"one"\n'


def test_a_folder_is_its_files_in_the_order_of_their_names(store, folder):
    _, ref, _ = folder
    assert store.get_texts(ref) == b'"one"\n"two"\n\n"three"'


def test_a_file_of_a_folder_that_was_exchanged_is_found_out(store, folder):
    manifest, ref, prefix = folder
    (entry,) = [file for file in manifest.files if file.path == "b.jsonl"]
    store._client.write(store.bucket, blob_key(entry.digest, prefix), memoryview(b'"thrEE"'))
    with pytest.raises(Permanent) as caught:
        store.get_texts(ref)
    assert caught.value.code == "digest_mismatch"
    assert "b.jsonl" in caught.value.reason


def test_a_folder_of_more_text_than_fits_is_refused_before_it_is_read(store, folder, monkeypatch):
    _, ref, _ = folder
    monkeypatch.setattr("shared.storage.blobs.WHOLE_BYTES", len(b'"one"\n"two"\n"three"') - 1)
    with pytest.raises(Permanent, match="take a smaller sample") as caught:
        store.get_texts(ref)
    assert caught.value.code == "artifact_not_found"
