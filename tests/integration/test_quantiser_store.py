"""The quantiser's texts in a real store: one file, or a folder of them that need not fit into memory."""

import tracemalloc

import pytest

from services.quantiser.adapters.store import StoredArtifacts
from shared.blobs import Store

LINE = b'{"text": "on the slipway"}\n'


@pytest.fixture
def store(settings):
    return Store(settings)


def test_one_file_of_texts(store, tmp_path):
    ref = store.create("uploads/one.jsonl", LINE)
    assert StoredArtifacts(store, tmp_path).fetch_texts(ref, tmp_path / "texts").read_bytes() == LINE


def test_folder_of_texts_is_never_in_memory_as_a_whole(store, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("a.jsonl", "b.jsonl", "notes.txt"):
        (folder / name).write_bytes(LINE * 400_000)
    (folder / "c.jsonl").write_bytes(LINE.rstrip())  # without an end of line
    ref, _ = store.put_manifest("uploads/manifests/folder/set.json", store.put_folder(folder, "uploads/"))
    tracemalloc.start()
    try:
        path = StoredArtifacts(store, tmp_path).fetch_texts(ref, tmp_path / "texts")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [line for line in path.read_bytes().splitlines() if line] == [LINE.rstrip()] * 800_001
    assert peak < 8_000_000  # of 21 MB
