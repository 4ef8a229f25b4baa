"""The files beside the models: whole or not there, whatever their writers do to each other."""

import os

import pytest

from services.server_manager.adapters.kv_state import KvLeadership
from services.server_manager.adapters.repository_files import DAMAGED, LeaseFile, LeaseFiles
from services.server_manager.adapters.triton_engine import SIDECAR, Sidecar, read_sidecar
from services.server_manager.domain.records import Leader
from tests.kit.fakes_serving import FakeClock
from tests.kit.records import MemoryRecords


def lead(terms, holder="one"):
    return KvLeadership(MemoryRecords(Leader), "main", holder, FakeClock(), terms)


def test_two_processes_with_the_same_id_on_one_disk_write_different_partial_files(tmp_path, monkeypatch):
    """Process 1 of two containers: the first is paused before it replaces the file, the second writes its own."""
    terms, synced, partials = LeaseFile(tmp_path), os.fsync, []

    def sync(file):
        synced(file)
        partials.append({path.name for path in tmp_path.iterdir()})
        if len(partials) == 1:
            LeaseFile(tmp_path).write(Leader(holder="second", term=2))

    monkeypatch.setattr(os, "fsync", sync)
    terms.write(Leader(holder="first", term=1))
    assert len(partials[1] - {"slipway-lease.json"}) == 2
    assert terms.read() == Leader(holder="first", term=1)
    assert [path.name for path in tmp_path.iterdir()] == ["slipway-lease.json"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    terms = LeaseFile(tmp_path)
    terms.write(Leader(holder="first", term=1))

    def full(_file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        terms.write(Leader(holder="first", term=2))
    assert terms.read() == Leader(holder="first", term=1)
    assert [path.name for path in tmp_path.iterdir()] == ["slipway-lease.json"]


@pytest.mark.parametrize("torn", [b"", b'{"holder":"tw', b"\x00" * 32, b'{"holder":"two","term":2,"later":1}'])
def test_a_torn_lease_file_counts_as_written_by_another_process(tmp_path, torn):
    terms = LeaseFile(tmp_path)
    assert not lead(terms).superseded(), "no process wrote"
    (tmp_path / "slipway-lease.json").write_bytes(torn)
    assert lead(terms).superseded()


@pytest.mark.parametrize(
    "torn", [b"", b"{", b"[]", b"\xff", b'{"digest":5,"memory_bytes":1}', b'{"digest":null,"memory_bytes":"much"}']
)
def test_a_torn_note_beside_a_model_says_nothing_of_what_it_was_loaded_from(tmp_path, torn):
    assert read_sidecar(tmp_path) == Sidecar()
    (tmp_path / SIDECAR).write_bytes(torn)
    assert read_sidecar(tmp_path) == Sidecar()


def test_the_term_beside_several_engines_is_the_highest_and_a_damaged_one_stops_all(tmp_path):
    files = [LeaseFile(tmp_path / name) for name in ("a", "b")]
    terms = LeaseFiles(files)
    assert terms.read() is None
    own, other = Leader(holder="own", term=3), Leader(holder="other", term=4)
    terms.write(own)
    assert [file.read() for file in files] == [own, own]
    files[1].write(other)
    assert terms.read() == other
    (tmp_path / "a" / "slipway-lease.json").write_text("{")
    assert terms.read() == DAMAGED
    terms.write(own)
    assert terms.read() == own


def test_the_term_is_written_beside_the_other_engines_where_one_disk_is_full(tmp_path):
    (tmp_path / "a").write_text("no folder")
    terms = LeaseFiles([LeaseFile(tmp_path / "a"), LeaseFile(tmp_path / "b")])
    with pytest.raises(OSError, match="a"):
        terms.write(Leader(holder="own", term=1))
    assert LeaseFile(tmp_path / "b").read() == Leader(holder="own", term=1)


async def test_the_term_beside_an_engine_whose_disk_was_full_is_written_when_there_is_space_again(tmp_path):
    """Until then that file has the term of a process before, which could act on this engine if the others were lost."""
    before, stale = LeaseFile(tmp_path / "a"), LeaseFile(tmp_path / "b")
    for file in (before, stale):
        file.write(Leader(holder="before", term=3))
    files = LeaseFiles([before, stale])
    (tmp_path / "b" / "slipway-lease.json").rename(tmp_path / "lease")
    (tmp_path / "b").rmdir()
    (tmp_path / "b").write_text("no folder")
    first = lead(files)
    assert await first.hold()
    (tmp_path / "b").unlink()
    (tmp_path / "b").mkdir()
    (tmp_path / "lease").rename(tmp_path / "b" / "slipway-lease.json")
    assert (before.read(), stale.read()) == (Leader(holder="one", term=4), Leader(holder="before", term=3))
    assert await first.hold()
    assert (before.read(), stale.read()) == (Leader(holder="one", term=4), Leader(holder="one", term=4))
    assert not first.superseded()


def test_only_files_with_another_term_are_replaced(tmp_path):
    files = LeaseFiles([LeaseFile(tmp_path / "a"), LeaseFile(tmp_path / "b")])
    own = Leader(holder="own", term=3)
    files.write(own)
    untouched = (tmp_path / "a" / "slipway-lease.json").stat().st_ino
    LeaseFile(tmp_path / "b").write(Leader(holder="before", term=2))
    assert not files.holds(own)
    files.write(own)
    assert files.holds(own)
    assert (tmp_path / "a" / "slipway-lease.json").stat().st_ino == untouched
