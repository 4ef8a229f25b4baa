"""A checkpoint's folder in the store is bounded, too: its manifest says how large it is before anything is read."""

import pytest

from services.merger.adapters.store import StoredArtifacts
from shared.errors import Permanent
from shared.runtime.settings import SourceSettings
from shared.storage.blobs import Store
from shared.storage.sources import Sources
from testbed.attesters import attester, trust


@pytest.mark.parametrize(
    ("quota", "allowed"),
    [
        ({}, True),
        ({"source_max_files": 2, "source_max_bytes": 30}, True),
        ({"source_max_files": 1}, False),
        ({"source_max_bytes": 29}, False),
    ],
)
def test_a_folder_in_the_store_beyond_its_quota_is_refused(settings, tmp_path, quota, allowed):
    folder, store = tmp_path / "lora", Store(settings)
    folder.mkdir()
    (folder / "a.safetensors").write_bytes(b"x" * 20)
    (folder / "b.json").write_bytes(b"y" * 10)
    ref, _ = store.put_manifest(f"manifests/folder/{allowed}-{len(quota)}.json", store.put_folder(folder))
    artifacts = StoredArtifacts(
        store, tmp_path / "work", Sources(SourceSettings(**quota)), attester(tmp_path, "merger"), trust(tmp_path)
    )
    if allowed:
        assert len(artifacts.open_folder(ref).files) == 2
        return
    with pytest.raises(Permanent, match="SLIPWAY_SOURCE_MAX_") as caught:
        artifacts.open_folder(ref)
    assert caught.value.code == "too_large"
