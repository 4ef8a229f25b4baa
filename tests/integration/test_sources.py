"""Folders outside the store: on a real disk, and in a mirror of the hub's protocol that also lies."""

import errno
import logging
import os
import random
import re
import socket
from pathlib import Path

import pytest

from contracts.storage.sources import HubFolder
from shared.errors import Permanent, Transient
from shared.runtime.settings import SourceSettings
from shared.storage.hub import Hub
from shared.storage.sources import Sources, describe_file, read_folder
from tests.kit.hub import running_mirror

WEIGHTS = b"w" * 3_000
FILES = {
    "adapter_config.json": b'{"r": 4}',
    "adapter_model.safetensors": WEIGHTS,
    "README.md": b"a card",
    "train.py": b"import os",
    "optimizer.pt": b"pickle",
    "pytorch_model.bin": b"pickle",
    ".gitattributes": b"",
    "onnx/model.safetensors": b"other",
}
TRAVELS = ("adapter_config.json", "adapter_model.safetensors")
SECRET = "a-secret-token"


@pytest.fixture
def mirror():
    with running_mirror() as mirror:
        yield mirror


@pytest.fixture
def pushed(mirror):
    return HubFolder("acme/lora", mirror.push("acme/lora", FILES))


def hub_of(mirror, **given):
    return Sources(SourceSettings(hf_endpoint=mirror.url, **given))


def read(source, scratch):
    return read_folder(source, scratch, describe_file)


def refused(sources, uri, scratch):
    with pytest.raises((Permanent, Transient)) as caught:
        read(sources.open(uri), scratch)
    assert caught.value.sentence().count(". ") >= 1
    return caught.value


# -- the hub --------------------------------------------------------------------------------------------------------------


def test_a_branch_is_followed_to_its_commit_and_only_what_may_travel_is_downloaded(mirror, pushed, tmp_path):
    source = hub_of(mirror).open("hf://acme/lora@main")
    assert (source.uri, source.names) == (pushed.uri, TRAVELS)
    assert source.size_bytes == len(FILES["adapter_config.json"]) + len(WEIGHTS)
    counted = []
    content = read_folder(source, tmp_path, describe_file, counted.append)
    assert [file.path for file in content.files] == list(TRAVELS)
    assert sum(counted) == content.size_bytes == source.size_bytes
    assert sorted(mirror.downloads()) == sorted(TRAVELS)
    assert not [path for path in tmp_path.iterdir() if path.is_file()]
    mirror.push("acme/lora", {**FILES, "adapter_config.json": b"{}"})
    assert read(hub_of(mirror).open(pushed.uri), tmp_path) == content  # the commit is still what it was


def test_a_folder_is_the_same_on_disk_and_in_the_hub(mirror, pushed, tmp_path):
    folder = tmp_path / "lora"
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    on_disk = read(Sources(SourceSettings(file_roots=(tmp_path,))).open(folder.as_uri()), scratch)
    assert on_disk == read(hub_of(mirror).open(pushed.uri), scratch)


def lies(mirror, lie):
    match lie:
        case "changed":
            mirror.changed["adapter_config.json"] = b'{"r": 8}'
        case "changed weights":
            mirror.changed["adapter_model.safetensors"] = b"x" * len(WEIGHTS)
        case "longer":
            mirror.changed["adapter_config.json"] = b'{"r": 4, "x": 1}'
        case "shorter than announced":
            mirror.shortened["adapter_model.safetensors"] = 100
        case "shorter":
            mirror.changed["adapter_model.safetensors"] = WEIGHTS[:-1]
        case _:
            mirror.failing = lie


@pytest.mark.parametrize(
    ("lie", "answer"),
    [
        *[
            (lie, (Permanent, "digest_mismatch"))
            for lie in (
                "changed",
                "changed weights",
                "longer",
                "shorter",
                "shorter than announced",
            )
        ],
        *[(status, (Transient, "hub_unavailable")) for status in (200, 429, 500, 503)],
        (403, (Permanent, "uri_not_allowed")),
        (404, (Permanent, "artifact_not_found")),
        (410, (Permanent, "artifact_not_found")),
    ],
)
def test_a_hub_that_lies_or_fails_is_found_out(mirror, pushed, tmp_path, lie, answer):
    """A 200 that holds no list comes from something that is no hub."""
    lies(mirror, lie)
    error = refused(hub_of(mirror), pushed.uri, tmp_path)
    assert (type(error), error.code) == answer
    assert pushed.uri in error.reason


def test_a_hub_that_fails_between_the_list_and_a_file_is_tried_again_later(mirror, pushed, tmp_path):
    source = hub_of(mirror).open(pushed.uri)
    mirror.failing = 502
    with pytest.raises(Transient) as caught:
        source.fetch("adapter_config.json", tmp_path)
    assert caught.value.code == "hub_unavailable"


@pytest.mark.parametrize(
    ("uri", "says"), [("hf://acme/none@main", "check repository"), (f"hf://acme/lora@{'0' * 40}", "check repository")]
)
def test_what_is_not_there_is_said(mirror, pushed, tmp_path, uri, says):
    error = refused(hub_of(mirror), uri, tmp_path)
    assert (type(error), error.code) == (Permanent, "artifact_not_found")
    assert says in error.reason


def test_a_hub_that_is_down_is_waited_for(mirror, tmp_path):
    sources = Sources(SourceSettings(hf_endpoint="http://127.0.0.1:9"))
    error = refused(sources, "hf://acme/lora@main", tmp_path)
    assert (type(error), error.code) == (Transient, "hub_unavailable")


def test_another_commit_than_was_asked_for_is_found_out(mirror, pushed, tmp_path):
    other = HubFolder("acme/lora", "1" * 40)
    mirror.branches["acme/lora", other.revision] = pushed.revision
    assert refused(hub_of(mirror), other.uri, tmp_path).code == "digest_mismatch"


@pytest.mark.parametrize("ranges", [True, False], ids=["", "or starts over, where the hub gives no parts"])
def test_a_download_that_breaks_off_goes_on_where_it_was(mirror, tmp_path, ranges):
    large = random.Random(7).randbytes(11_000_000)
    mirror.ranges = ranges
    commit = mirror.push("acme/large", {"model.safetensors": large})
    mirror.cut["model.safetensors"] = 10_500_000
    counted = []
    content = read_folder(hub_of(mirror).open(f"hf://acme/large@{commit}"), tmp_path, describe_file, counted.append)
    assert [file.size_bytes for file in content.files] == [sum(counted)] == [len(large)]
    assert (min(counted) < 0) is not ranges
    assert {asked for *_, asked in mirror.asked if asked} == {f"bytes={10 * 1024 * 1024}-"}
    assert len(mirror.downloads()) == 2


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({"pytorch_model.bin": b"p", "config.json": b"{}"}, "pickle_refused"),
        ({"adapter_model.bin": b"p", "onnx/model.safetensors": b"x"}, "pickle_refused"),
        ({"config.json": b"{}", "x.gguf": b"g"}, "artifact_not_found"),
    ],
)
def test_a_repository_without_safetensors_is_refused_before_anything_is_downloaded(mirror, tmp_path, files, code):
    commit = mirror.push("acme/old", files)
    error = refused(hub_of(mirror), f"hf://acme/old@{commit}", tmp_path)
    assert (type(error), error.code) == (Permanent, code)
    assert mirror.downloads() == []


def test_the_token_goes_to_the_hub_only(tmp_path, caplog, capfd, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    caplog.set_level(logging.DEBUG)
    with running_mirror(token=SECRET) as mirror:
        uri = f"hf://acme/lora@{mirror.push('acme/lora', FILES)}"
        settings = SourceSettings(hf_endpoint=mirror.url)
        read(Sources(settings).open(uri), tmp_path)
        sent = {path.split("/")[1]: authorization for _, path, authorization, _ in mirror.asked}
        assert sent == {"api": f"Bearer {SECRET}", "acme": f"Bearer {SECRET}", "storage": None}
        wrong = SourceSettings(hf_endpoint=mirror.url, hf_token="another")
        error = refused(Sources(wrong), uri, tmp_path)
    assert (type(error), error.code) == (Permanent, "uri_not_allowed")
    assert "HF_TOKEN" in error.reason
    seen = [repr(settings), str(error), error.sentence(), repr(error.__cause__), caplog.text, *capfd.readouterr()]
    assert not [text for text in seen if SECRET in text or "another" in text]


def test_without_a_configured_hub_the_setting_is_named(tmp_path):
    error = refused(Sources(SourceSettings(hf_endpoint=None)), f"hf://acme/lora@{'0' * 40}", tmp_path)
    assert (type(error), error.code) == (Permanent, "uri_not_allowed")
    assert "SLIPWAY_HF_ENDPOINT" in error.reason


def test_a_full_disk_is_waited_for():
    error = Hub("http://127.0.0.1:9")._explain(OSError(errno.ENOSPC, "No space left on device"), HubFolder("a", "main"))
    assert (type(error), error.code) == (Transient, "disk_full")


@pytest.mark.parametrize("value", ["", "ftp://hub", "hub", "https://", "https:// x"])
def test_an_endpoint_is_a_web_address_or_nothing(monkeypatch, value):
    monkeypatch.setenv("SLIPWAY_HF_ENDPOINT", value)
    monkeypatch.setenv("SLIPWAY_FILE_ROOTS", "")
    if value:
        with pytest.raises(ValueError, match="hf_endpoint"):
            SourceSettings()
    else:
        assert (SourceSettings().hf_endpoint, SourceSettings().file_roots) == (None, ())


# -- the disk -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path):
    """A root with a LoRA, something secret beside the root, and a folder to copy into."""
    for folder in ("root/lora", "root/shared", "secret", "scratch"):
        (tmp_path / folder).mkdir(parents=True)
    for name in TRAVELS:
        (tmp_path / "root/lora" / name).write_bytes(FILES[name])
    (tmp_path / "secret" / "key.json").write_bytes(b"secret")
    return tmp_path


def open_disk(disk, folder="root/lora", root="root"):
    return Sources(SourceSettings(file_roots=(disk / root,))).open((disk / folder).as_uri())


def test_links_lead_anywhere_below_the_roots_and_nowhere_else(disk):
    (disk / "root/shared/tokenizer.json").write_bytes(b"{}")
    (disk / "root/lora/tokenizer.json").symlink_to(disk / "root/shared/tokenizer.json")
    assert len(read(open_disk(disk), disk / "scratch").files) == 3
    (disk / "root/lora/config.json").symlink_to(disk / "secret/key.json")
    with pytest.raises(Permanent) as caught:
        open_disk(disk)
    assert caught.value.code == "uri_not_allowed"
    assert "SLIPWAY_FILE_ROOTS" in caught.value.reason


def test_a_link_that_is_laid_after_the_look_is_found_while_reading(disk):
    source = open_disk(disk)
    (disk / "root/lora/adapter_config.json").unlink()
    (disk / "root/lora/adapter_config.json").symlink_to(disk / "secret/key.json")
    with pytest.raises(Permanent) as caught:
        source.fetch("adapter_config.json", disk / "scratch")
    assert caught.value.code == "uri_not_allowed"
    assert not list((disk / "scratch").iterdir())


def test_the_roots_themselves_may_be_links(disk):
    (disk / "mount").symlink_to(disk / "root")
    assert len(read(open_disk(disk, folder="mount/lora", root="mount"), disk / "scratch").files) == 2


@pytest.mark.parametrize(
    ("folder", "code"),
    [
        ("secret", "uri_not_allowed"),
        ("root/none", "artifact_not_found"),
        ("root/shared", "artifact_not_found"),
        ("root/lora/adapter_config.json", "artifact_not_found"),
        ("rootless", "uri_not_allowed"),
    ],
)
def test_folders_that_may_not_or_cannot_be_read(disk, folder, code):
    (disk / "rootless").mkdir()
    with pytest.raises(Permanent) as caught:
        open_disk(disk, folder)
    assert caught.value.code == code


def test_a_pickle_a_pipe_and_what_went_away_are_refused(disk):
    (disk / "root/shared/adapter_model.bin").write_bytes(b"p")
    with pytest.raises(Permanent) as pickled:
        open_disk(disk, "root/shared")
    os.mkfifo(disk / "root/lora/tokenizer.json")
    source = open_disk(disk)
    with pytest.raises(Permanent) as pipe:
        source.fetch("tokenizer.json", disk / "scratch")
    (disk / "root/lora/adapter_config.json").unlink()
    with pytest.raises(Permanent) as gone:
        source.fetch("adapter_config.json", disk / "scratch")
    codes = [caught.value.code for caught in (pickled, pipe, gone)]
    assert codes == ["pickle_refused", "artifact_not_found", "artifact_not_found"]


def open_descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_folder_or_a_socket_under_the_name_of_a_file_is_refused_and_nothing_stays_open(disk):
    (disk / "root/lora/tokenizer.json").mkdir()
    (disk / "root/lora/config.json").symlink_to(disk / "root/shared")
    with socket.socket(socket.AF_UNIX) as plug:
        plug.bind(os.path.relpath(disk / "root/lora/vocab.json"))  # no longer than such an address may be
        source = open_disk(disk)
        before = open_descriptors()
        for name in ("tokenizer.json", "config.json", "vocab.json"):
            with pytest.raises(Permanent) as caught:
                source.fetch(name, disk / "scratch")
            assert caught.value.code == "artifact_not_found"
            assert name in caught.value.reason
        assert open_descriptors() == before
    assert not list((disk / "scratch").iterdir())


@pytest.mark.parametrize("place", ["root/loop", "root/loop/lora", "root/lora/config.json", "root/" + "a" * 300])
def test_links_in_a_circle_and_names_without_end_lead_nowhere(disk, place):
    if len(place) < 300:
        loop = disk / ("root/loop" if "loop" in place else place)
        loop.symlink_to(loop)
    with pytest.raises(Permanent) as caught:
        open_disk(disk, "root/lora" if place.endswith(".json") else place)
    assert caught.value.code == "artifact_not_found"


def test_a_file_that_became_a_circle_of_links_after_the_look_is_not_there(disk):
    source = open_disk(disk)
    (disk / "root/lora/adapter_config.json").unlink()
    (disk / "root/lora/adapter_config.json").symlink_to("adapter_config.json")
    with pytest.raises(Permanent) as caught:
        source.fetch("adapter_config.json", disk / "scratch")
    assert caught.value.code == "artifact_not_found"


def test_a_copy_that_fills_the_disk_is_tried_again(disk):
    (disk / "scratch/adapter_config.json").symlink_to("/dev/full")
    with pytest.raises(Transient) as caught:
        open_disk(disk).fetch("adapter_config.json", disk / "scratch")
    assert caught.value.code == "disk_full"


# -- quotas ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quota", "says"),
    [
        ({"source_max_bytes": 10}, r"bytes in all.*SLIPWAY_SOURCE_MAX_BYTES allows 10"),
        ({"source_max_files": 1}, r"has 2 files.*SLIPWAY_SOURCE_MAX_FILES allows 1"),
    ],
)
def test_a_source_beyond_its_quota_is_refused_before_anything_is_read(mirror, pushed, disk, quota, says):
    on_disk = Sources(SourceSettings(file_roots=(disk / "root",), **quota))
    before = len(mirror.asked)
    for sources, uri in ((on_disk, (disk / "root/lora").as_uri()), (hub_of(mirror, **quota), pushed.uri)):
        error = refused(sources, uri, disk / "scratch")
        assert error.code == "too_large"
        assert re.search(says, error.reason)
    assert not [asked for asked in mirror.asked[before:] if "/resolve/" in asked[1]]


def test_a_folder_that_grows_beyond_its_quota_while_it_is_read_is_given_up(disk):
    size = sum(path.stat().st_size for path in (disk / "root/lora").iterdir())
    source = Sources(SourceSettings(file_roots=(disk / "root",), source_max_bytes=size + 10)).open(
        (disk / "root/lora").as_uri()
    )
    with (disk / "root/lora/adapter_config.json").open("ab") as file:
        file.write(b" " * 1000)
    with pytest.raises(Permanent, match="SLIPWAY_SOURCE_MAX_BYTES") as caught:
        read(source, disk / "scratch")
    assert caught.value.code == "too_large"


def test_a_hub_that_sends_more_than_it_listed_is_cut_off(mirror, tmp_path):
    files = {"model.safetensors": b"s" * 100, "config.json": b"{}"}
    commit = mirror.push("acme/growing", files)
    mirror.changed["model.safetensors"] = b"s" * 64_000_000
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    source = hub_of(mirror).open(f"hf://acme/growing@{commit}")
    counted = []
    with pytest.raises(Permanent) as caught:
        source.fetch("model.safetensors", scratch, counted.append)
    assert caught.value.code == "digest_mismatch"
    assert sum(counted) < 32_000_000
