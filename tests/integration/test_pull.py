"""`slipway pull` on a real store: the signed files and no others, again after a failure, and into no foreign folder."""

import json

import pytest

from shared.storage.blobs import Store, blob_key
from testbed.attesters import attester_keys
from testbed.released import release
from testbed.services import environment
from tests.kit.command import run_command

MODEL = "pulled"


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return tmp_path_factory.mktemp("keys")


@pytest.fixture
def store(settings):
    return Store(settings)


@pytest.fixture
def released(store, keys):
    return release(store, keys, MODEL)


@pytest.fixture
def pull(settings, keys, released):
    variables = {**environment(settings), "SLIPWAY_ATTESTERS": str(attester_keys(keys).listing)}
    return lambda *arguments: run_command(variables, "pull", f"{MODEL}@v2", *map(str, arguments))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_files_of_a_variant_are_pulled_and_again_after_a_failure(pull, store, released, tmp_path):
    folder = tmp_path / "served"
    status, out, err = pull(folder, "--variant", "int8", "--json")
    assert (status, err) == (0, "")
    files = released.variants["int8"].files
    expected = {file.path: store.find(blob_key(file.digest)) for file in files}
    assert contents(folder) == expected
    digest = next(each.manifest.digest for each in released.manifest.variants if each.variant == "int8")
    assert json.loads(out)["manifest"] == digest
    first = folder / files[0].path
    first.write_bytes(first.read_bytes()[::-1])  # as long as before
    status, _, err = pull(folder, "--variant", "int8")
    assert (status, first.name in err) == (2, True)
    first.unlink()
    (folder / ".part-left").write_bytes(b"half a file")
    (folder / "later").mkdir()
    (folder / "later" / ".part-left").write_bytes(b"half a file")
    assert pull(folder, "--variant", "int8")[0] == 0
    assert list((folder / "later").iterdir()) == []
    (folder / "later").rmdir()
    assert contents(folder) == expected


def test_a_folder_with_other_files_is_left_alone(pull, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".part-other").write_text("of another pull")
    status, _, err = pull(tmp_path, "--variant", "int8")
    assert (status, contents(tmp_path)) == (2, {"notes.txt": b"mine", ".part-other": b"of another pull"})
    assert "notes.txt" in err
    folder = tmp_path / "served"
    assert pull(folder, "--variant", "int8")[0] == 0
    before = contents(folder)
    status, _, err = pull(folder, "--variant", "bf16")
    assert (status, contents(folder)) == (2, before)
    assert f"other bytes than {MODEL}.v2.bf16" in err
    (folder / "other.safetensors").write_bytes(b"other weights")
    status, _, err = pull(folder, "--variant", "int8")
    assert status == 2
    assert "other.safetensors" in err


def test_without_its_attestation_a_version_is_not_pulled(pull, store, tmp_path):
    (key,) = [each for each in store.keys(f"versions/{MODEL}/2/") if each.endswith("/000001.json")]
    data = store.find(key)
    store._client.write(store.bucket, key, memoryview(b"{}"))
    status, _, err = pull(tmp_path / "x", "--variant", "int8")
    store._client.write(store.bucket, key, memoryview(data))
    assert status == 1
    assert "attestation 1" in err


def test_a_variant_must_be_chosen_and_exist(pull, tmp_path):
    for arguments in ((), ("--variant", "fp8")):
        status, _, err = pull(tmp_path / "x", *arguments)
        assert status == 2
        assert "bf16, int8" in err
    assert not (tmp_path / "x").exists()


def test_an_altered_version_or_file_is_not_pulled(pull, store, released, tmp_path):
    def overwrite(key, data):
        store._client.write(store.bucket, key, memoryview(data))

    key = f"versions/{MODEL}/2/manifest.json"
    data = store.find(key)
    overwrite(key, data.replace(b"tiny", b"tinz"))
    status, _, err = pull(tmp_path / "x", "--variant", "int8")
    overwrite(key, data)
    assert status == 1
    assert "not proven: version manifest" in err
    assert not (tmp_path / "x").exists()
    file = released.variants["int8"].files[0]
    blob = next(each for each in store.keys("") if each.endswith(file.digest.removeprefix("sha256:")))
    bytes_of_it = store.find(blob)
    overwrite(blob, bytes_of_it[::-1])
    status, _, err = pull(tmp_path / "x", "--variant", "int8", "--json")
    overwrite(blob, bytes_of_it)
    assert status == 1
    assert json.loads(err)["error"]["code"] == "digest_mismatch"
    assert file.path not in contents(tmp_path / "x")
