"""How folders outside the store are named, and which of their files travel."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from contracts.storage.sources import (
    HubFolder,
    is_weights,
    parse_file_uri,
    parse_hub_uri,
    pickles_in,
    scheme_of,
    travels,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PARTS = st.from_regex(r"[A-Za-z0-9_]{1,20}", fullmatch=True)
REVISIONS = st.one_of(st.just(COMMIT), PARTS, st.just("refs/pr/3"), st.just("v1.0"))


@given(st.lists(PARTS, min_size=1, max_size=2), REVISIONS)
def test_what_was_written_is_read(parts, revision):
    folder = HubFolder("/".join(parts), revision)
    assert parse_hub_uri(folder.uri) == folder
    assert folder.pinned == (revision == COMMIT)
    assert scheme_of(folder.uri) == "hf"


@given(st.text(alphabet="abAB01._-/@:% \n\\?#é", max_size=40))
@example("../x@main")
@example("a/b/c@main")
@example("a@main\n")
@example("a@" + COMMIT + "\n")
def test_what_is_read_can_only_lead_to_one_repository(text):
    """Repository and revision become parts of a URL: nothing in them may end the part, or climb out of it."""
    try:
        folder = parse_hub_uri("hf://" + text)
    except ValueError:
        return
    assert folder.uri == "hf://" + text
    assert re.fullmatch(r"[\w.-]+(/[\w.-]+)?", folder.repo, re.ASCII)
    assert re.fullmatch(r"[\w./-]+", folder.revision, re.ASCII)
    assert not {"", ".", ".."} & {*folder.repo.split("/"), *folder.revision.split("/")}


@pytest.mark.parametrize(
    "uri",
    [
        "hf://",
        "hf://a",
        "hf://a/b",
        "hf:a/b@main",
        "hf://a/b@",
        "hf://@main",
        "hf://a//b@main",
        "hf://a/b/c@main",
        "hf:///a/b@main",
        "hf://.a/b@main",
        "hf://a-/b@main",
        "hf://a/b--c@main",
        "hf://a..b@main",
        "HF://a/b@main",
        "hf://a/b@../main",
        "hf://a/b@a//b",
        "hf://a/b@-x",
        "hf://a/b@x y",
        "hf://a/b@main@main",
        "s3://a/b@main",
        f"hf://{'a' * 97}@main",
        f"hf://a/b@{'r' * 201}",
        "hf://ä/b@main",
    ],
)
def test_what_names_no_repository_is_refused(uri):
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        parse_hub_uri(uri)


@pytest.mark.parametrize("revision", ["main", "v1.0", COMMIT[:7], COMMIT.upper(), COMMIT + "0", "refs/pr/1"])
def test_only_a_whole_commit_is_pinned(revision):
    assert not parse_hub_uri(f"hf://acme/x@{revision}").pinned


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:///srv/a", "/srv/a"),
        ("file:///srv/a/", "/srv/a"),
        ("file:///", "/"),
        ("file:////srv", "/srv"),
        ("file:///srv/./a", "/srv/a"),
        ("file:///srv/a@b", "/srv/a@b"),
    ],
)
def test_a_folder_on_disk_is_read(uri, path):
    assert str(parse_file_uri(uri)) == path


@pytest.mark.parametrize(
    "uri",
    [
        "file:/srv",
        "file://host/srv",
        "file:srv",
        "file:///srv/../etc",
        "file:///srv/%2e%2e/etc",
        "file:///a?b",
        "file:///a#b",
        "file:///a\\b",
        "file:///a b",
        "file:///ä",
        "file:///a\nb",
        "file:///a\0b",
        "s3://a",
    ],
)
def test_what_names_no_folder_on_disk_is_refused(uri):
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        parse_file_uri(uri)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *[
            (name, True)
            for name in (
                "model.safetensors",
                "model-00001-of-00002.safetensors",
                "adapter_model.safetensors",
                "config.json",
                "model.safetensors.index.json",
                "chat_template.jinja",
                "merges.txt",
                "tokenizer.model",
                "_x.json",
            )
        ],
        *[
            (name, False)
            for name in (
                "modeling_x.py",
                "pytorch_model.bin",
                "model.pt",
                "x.pth",
                "x.pkl",
                "x.ckpt",
                "x.gguf",
                "x.h5",
                "x.onnx",
                "README.md",
                "LICENSE",
                ".gitattributes",
                ".json",
                "-x.json",
                "onnx/config.json",
                "../config.json",
                "a b.json",
                "config.json\n",
                "config.json.py",
                "CONFIG.JSON",
                "x.so",
                "json",
                "",
            )
        ],
    ],
)
def test_files_travel_that_cannot_run_code(name, expected):
    assert travels(name) == expected


@given(st.text(max_size=30))
def test_what_travels_is_a_plain_name_of_an_allowed_kind(name):
    if travels(name):
        assert re.fullmatch(r"[\w.-]+\.(safetensors|json|jinja|txt|model)", name, re.ASCII)
        assert not name.startswith((".", "-"))
        assert pickles_in([name]) == []


def test_weights_and_pickles_are_told_apart():
    names = ["pytorch_model.BIN", "model.safetensors", "a/b.pt", "config.json"]
    assert pickles_in(names) == ["a/b.pt", "pytorch_model.BIN"]
    assert [name for name in names if is_weights(name)] == ["model.safetensors"]


@pytest.mark.parametrize(("uri", "scheme"), [("s3://b/k", None), ("hfx://a", None), ("x", None), ("file:///a", "file")])
def test_everything_else_is_not_outside(uri, scheme):
    assert scheme_of(uri) == scheme
