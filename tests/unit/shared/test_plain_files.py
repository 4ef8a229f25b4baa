"""Folders that a hostile process wrote: only regular files are read, and no link is followed."""

import os
import socket

import pytest

from shared.errors import Permanent
from shared.storage.blobs import list_files, open_file


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_text("private")
    (tmp_path / "out/sub").mkdir(parents=True)
    (tmp_path / "out/a.json").write_text("{}")
    (tmp_path / "out/sub/b.bin").write_bytes(b"12345")
    return tmp_path / "out"


def test_files_are_listed_with_their_sizes_and_can_be_read(folder):
    assert list_files(folder) == [("a.json", 2), ("sub/b.bin", 5)]
    with open_file(folder, "sub/b.bin") as file:
        assert file.read() == b"12345"


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


BAITS = {
    "link": lambda path: path.symlink_to(path.parents[1] / "secret/key"),
    "link to a folder": lambda path: path.symlink_to(path.parents[1] / "secret"),
    "link to nothing": lambda path: path.symlink_to("nothing"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "pipe": os.mkfifo,
    "socket": make_socket,
}


@pytest.mark.parametrize("kind", BAITS)
def test_what_is_no_regular_file_is_refused(kind, folder):
    BAITS[kind](folder / "bait")
    with pytest.raises(Permanent, match="'bait' in the folder of results is not a regular file"):
        list_files(folder)
    with pytest.raises(Permanent, match="not a regular file"), open_file(folder, "bait"):
        pass


def test_a_folder_that_became_a_link_after_it_was_listed_is_refused(folder):
    (folder / "sub").rename(folder / "moved")
    (folder / "sub").symlink_to(folder.parent / "secret")
    with pytest.raises(Permanent, match="not a regular file"), open_file(folder, "sub/key"):
        pass


def test_a_folder_that_is_a_link_itself_is_refused(folder):
    (folder.parent / "other").symlink_to(folder)
    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        list_files(folder.parent / "other")
