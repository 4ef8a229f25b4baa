"""Backups: what belongs to one, where they are kept, and damage that is found before anything is written."""

import json
import stat
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from clients.cli.backup.contents import (
    BUCKETS_IN_ORDER,
    BackupManifest,
    Blob,
    ObjectCopy,
    StreamCopy,
    belongs,
    digest_in,
)
from clients.cli.backup.folder import Folder
from clients.cli.backup.restoring import choose, verify
from clients.cli.backup.taking import keep_list
from clients.cli.commands.installation.restore import note_shape, restore
from clients.cli.commands.installation.stack import parse_nats, parse_tritons
from clients.cli.main import app
from clients.cli.output import CommandError, Exit, size_text
from contracts.vocabulary import canonical_json, digest_of
from deploy.data_format import DATA_FORMAT
from deploy.local import bus
from deploy.local.state import StateFolder
from shared.errors import Permanent
from shared.messaging.topology import BUCKETS
from shared.storage.objects import AlreadyExists

NOW = datetime(2026, 11, 27, tzinfo=UTC)


def blob_of(data: bytes) -> Blob:
    return Blob(digest=digest_of(data), size_bytes=len(data))


class TestFolder:
    @pytest.fixture
    def location(self, tmp_path):
        return Folder(tmp_path / "backups")

    def test_only_its_owner_reads_it(self, location):
        location.put(blob_of(b"secret"), [memoryview(b"secret")])
        assert stat.S_IMODE(location.path.stat().st_mode) == 0o700

    def test_what_was_put_is_read_again(self, location):
        for data in (b"", b"some bytes"):
            blob = blob_of(data)
            assert not location.has(blob)
            location.put(blob, [memoryview(data)] if data else [])
            assert location.has(blob)
            assert b"".join(location.read(blob)) == data

    def test_what_is_there_is_not_read_from_its_source_again(self, location):
        location.put(blob_of(b"once"), [memoryview(b"once")])

        def source():
            raise AssertionError("it is there already")
            yield memoryview(b"")

        location.put(blob_of(b"once"), source())

    def test_parts_that_are_not_what_the_digest_names_leave_nothing(self, location):
        for wrong in (b"other bytes!", b"", b"some bytes and more"):
            with pytest.raises(Permanent, check=lambda error: error.code == "digest_mismatch"):
                location.put(blob_of(b"some bytes"), [memoryview(wrong)])
            assert not location.has(blob_of(b"some bytes"))

    def test_a_source_that_breaks_off_leaves_nothing(self, location):
        def source():
            yield memoryview(b"some ")
            raise ConnectionError

        with pytest.raises(ConnectionError):
            location.put(blob_of(b"some bytes"), source())
        assert not location.has(blob_of(b"some bytes"))

    def test_what_is_missing_is_said(self, location):
        with pytest.raises(Permanent, check=lambda error: error.code == "artifact_not_found"):
            b"".join(location.read(blob_of(b"never put")))
        with pytest.raises(Permanent, check=lambda error: error.code == "artifact_not_found"):
            location.manifest("20260101T000000000000Z")

    def test_manifests_are_committed_once_and_listed_in_order(self, location):
        assert location.names() == []
        location.commit("20260102T000000000000Z", b"second")
        location.commit("20260101T000000000000Z", b"first")
        assert location.names() == ["20260101T000000000000Z", "20260102T000000000000Z"]
        assert location.manifest("20260101T000000000000Z") == b"first"
        with pytest.raises(AlreadyExists):
            location.commit("20260101T000000000000Z", b"another")
        assert location.manifest("20260101T000000000000Z") == b"first"


def test_every_bucket_is_in_the_order_of_copying():
    assert sorted(BUCKETS_IN_ORDER) == sorted(BUCKETS)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("audit", "policies"),
        ("audit", "mirrors"),
        ("audit", "api-keys"),
        ("servers", "routes"),
        ("rollbacks", "routes"),
        ("rollbacks", "drills"),
    ],
)
def test_a_record_that_intends_a_change_is_copied_before_the_one_that_it_changes(first, then):
    assert BUCKETS_IN_ORDER.index(first) < BUCKETS_IN_ORDER.index(then)


def test_what_the_copied_records_do_not_know_stays_out():
    keep = belongs({"tiny": 2}, next_segment=3)
    assert keep("versions/tiny/2/manifest.json")
    assert not keep("versions/tiny/3/manifest.json")
    assert not keep("versions/other/1/manifest.json")
    assert keep("audit/000002.jsonl")
    assert not keep("audit/000003.jsonl")
    assert keep("blobs/sha256/ab/" + "ab" * 32)
    assert keep("manifests/merged/x.json")
    assert not keep("probe/x")
    assert not keep("data-format")


def test_a_key_names_its_digest_or_none():
    assert digest_in("checkpoints/tiny/blobs/sha256/ab/" + "ab" * 32) == "sha256:" + "ab" * 32
    assert digest_in("blobs/sha256/ab/" + "ab" * 31) is None
    assert digest_in("versions/tiny/1/manifest.json") is None


def kept(location: Folder, **changed) -> BackupManifest:
    """Commit a backup of one object and one stream."""
    location.put(blob_of(b"weights"), [memoryview(b"weights")])
    location.put(blob_of(b"messages"), [memoryview(b"messages")])
    copy = ObjectCopy(key="blobs/x", blob=blob_of(b"weights"))
    stream = StreamCopy(name="S", config={}, state={}, chunks=(blob_of(b"messages"),))
    manifest = BackupManifest(
        data_format=DATA_FORMAT,
        version="0.1.0",
        began_at=NOW,
        taken_at=NOW,
        positions=(),
        streams=(stream,),
        objects=keep_list(location, [copy]),
        object_count=1,
        object_bytes=7,
    ).model_copy(update=changed)
    location.commit(manifest.name(), canonical_json(manifest.model_dump(mode="json")))
    return manifest


def test_a_whole_backup_is_verified(tmp_path):
    location = Folder(tmp_path)
    manifest = kept(location)
    chosen = choose(location, None, None)
    assert chosen.manifest == manifest
    assert verify(chosen) == 15 + manifest.objects.size_bytes


def test_a_restored_stack_has_the_ports_and_the_tritons_that_its_routes_name(tmp_path):
    chosen = choose_one(tmp_path / "backup", ports={"triton-2-grpc": 12345}, tritons=2)
    folder = StateFolder(tmp_path / "state")
    note_shape(folder, chosen)
    assert parse_tritons(None, folder.read_description(), ()) == 2
    assert folder.read_description().ports == {"triton-2-grpc": 12345}
    assert parse_nats(None, folder.read_description(), stored=False) == 1
    folder.write_description(replace(folder.read_description(), tritons=3))
    note_shape(folder, chosen)
    assert folder.read_description().tritons == 3, "a restore that goes on changes nothing of it"


@pytest.mark.parametrize(("before", "asked", "now"), [(3, None, 3), (1, None, 1), (1, 3, 3), (3, 1, 1)])
def test_a_restored_stack_has_the_nats_servers_of_the_old_one_or_as_many_as_are_asked_for(tmp_path, before, asked, now):
    old = {name: 10_000 + number for number, name in enumerate(["s3", *bus.port_names(before)])}
    chosen = choose_one(tmp_path / "backup", ports=old)
    folder = StateFolder(tmp_path / "state")
    assert note_shape(folder, chosen, asked) == now
    kept_ports = folder.read_description().ports
    assert kept_ports == (old if before == now else {"s3": old["s3"]})
    assert note_shape(folder, chosen, asked) == now, "a restore that goes on before it has started a server"
    started = {**kept_ports, **dict.fromkeys(bus.port_names(now), 1)}
    folder.write_description(replace(folder.read_description(), ports=started))
    assert note_shape(folder, chosen) == now, "a restore that goes on"


def test_a_check_refuses_a_number_of_nats_servers_which_it_would_not_use(tmp_path):
    kept(Folder(tmp_path))
    restore(tmp_path, check=True)
    with pytest.raises(CommandError) as refused:
        restore(tmp_path, check=True, nats=3)
    assert refused.value.code == Exit.USAGE
    assert "--nats changes nothing with --check" in str(refused.value)


def choose_one(path, **changed):
    location = Folder(path)
    kept(location, **changed)
    return choose(location, None, None)


@pytest.mark.parametrize("data", [b"weights", b"messages"])
@pytest.mark.parametrize("damage", ["flipped", "shortened", "removed"])
def test_damage_of_any_part_is_found_before_anything_is_restored(tmp_path, data, damage):
    location = Folder(tmp_path)
    kept(location)
    hexadecimal = digest_of(data).removeprefix("sha256:")
    path = tmp_path / "blobs" / "sha256" / hexadecimal[:2] / hexadecimal
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes(data[:-1] + (b"?" if damage == "flipped" else b""))
    with pytest.raises(CommandError, match="damaged"):
        verify(choose(location, None, None))


def test_a_manifest_that_was_changed_is_refused_where_its_digest_was_noted(tmp_path):
    location = Folder(tmp_path)
    manifest = kept(location)
    noted = choose(location, None, None).digest
    path = tmp_path / "backups" / f"{manifest.name()}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": "9.9.9"}))
    with pytest.raises(CommandError, match="it was changed"):
        choose(location, None, noted)


@pytest.mark.parametrize(
    ("changed", "sentence"), [({"format": 2}, "format 2"), ({"data_format": DATA_FORMAT + 1}, "newer Slipway")]
)
def test_a_backup_that_this_program_cannot_restore_is_refused(tmp_path, changed, sentence):
    kept(Folder(tmp_path), **changed)
    with pytest.raises(CommandError, match=sentence):
        choose(Folder(tmp_path), None, None)


def test_a_manifest_that_was_cut_off_is_refused(tmp_path):
    manifest = kept(Folder(tmp_path))
    path = tmp_path / "backups" / f"{manifest.name()}.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(CommandError, match="damaged"):
        choose(Folder(tmp_path), None, None)


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_an_address_is_no_folder(command):
    done = CliRunner().invoke(app, [command, "s3://backups/slipway"])
    assert isinstance(done.exception, CommandError)
    assert done.exception.code == Exit.USAGE


def test_a_location_without_the_backup_says_what_it_has(tmp_path):
    with pytest.raises(CommandError, match="it has none"):
        choose(Folder(tmp_path), None, None)
    manifest = kept(Folder(tmp_path))
    with pytest.raises(CommandError, match=f"it has {manifest.name()}"):
        choose(Folder(tmp_path), "20200101T000000000000Z", None)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (5 * 1024**5, "5120.0 TiB")]
)
def test_a_size_is_written_in_the_unit_that_fits(size, text):
    assert size_text(size) == text
