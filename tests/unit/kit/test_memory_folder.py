"""Folders in memory are removed at the end, those of killed processes later; where memory is scarce, the disk is used."""

import subprocess
import sys

import pytest

from tests.kit import memory_folder as under_test
from tests.kit.memory_folder import PREFIX, memory_folder


def test_a_folder_in_memory_goes_with_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(under_test, "LEAST_FREE_BYTES", 0)
    with memory_folder(tmp_path / "disk", tmp_path) as folder:
        assert folder.parent == tmp_path
        (folder / "file").write_text("text")
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_killed_process_is_removed_and_that_of_a_live_one_stays(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for name in (f"{PREFIX}{ended.pid}-a", f"{PREFIX}1-b", "other"):
        (tmp_path / name).mkdir()
    with memory_folder(tmp_path / "disk", tmp_path):
        assert {each.name for each in tmp_path.iterdir()} >= {f"{PREFIX}1-b", "other"}
        assert not (tmp_path / f"{PREFIX}{ended.pid}-a").exists()


@pytest.mark.parametrize("memory", ["scarce", "not there"])
def test_without_memory_it_is_the_folder_on_the_disk(tmp_path, monkeypatch, memory):
    monkeypatch.setattr(under_test, "LEAST_FREE_BYTES", 2**80)
    (tmp_path / "scarce").mkdir()
    with memory_folder(tmp_path / "disk", tmp_path / memory) as folder:
        assert folder == tmp_path / "disk"
