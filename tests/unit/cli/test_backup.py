"""Backups: what belongs to one, where they are kept, the keys in them, and damage that is found before anything is written."""

import io
import json
import stat
import tarfile
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from clients.cli.backup import keys
from clients.cli.backup.contents import (
    BUCKETS_IN_ORDER,
    BackupManifest,
    ObjectCopy,
    StreamCopy,
    belongs,
    digest_in,
    is_same_stream,
)
from clients.cli.backup.keys import extract, pack, read_passphrase, unpack
from clients.cli.backup.locations import BucketPrefix, Folder
from clients.cli.backup.options import open_location
from clients.cli.backup.progress import Progress, size_text
from clients.cli.backup.restoring import choose, verify
from clients.cli.backup.taking import keep_list
from clients.cli.commands.restore import note_shape, restore
from clients.cli.commands.stack import parse_nats, parse_tritons
from clients.cli.output import CommandError, Exit
from contracts.event_archive import EventArchive
from contracts.vocabulary import canonical_json, digest_of
from deploy.data_format import DATA_FORMAT
from deploy.local import bus
from deploy.local.state import StateFolder
from shared.messaging.topology import BUCKETS
from shared.runtime.settings import Connection
from tests.kit.conformance_backup_locations import BackupLocationConformance, blob_of

NOW = datetime(2026, 11, 27, tzinfo=UTC)
QUIET = Progress(lambda: 0.0, shown=False)


class TestFolder(BackupLocationConformance):
    @pytest.fixture
    def location(self, tmp_path):
        return Folder(tmp_path / "backups")

    def test_only_its_owner_reads_it(self, location):
        location.put(blob_of(b"secret"), [memoryview(b"secret")])
        assert stat.S_IMODE(location.path.stat().st_mode) == 0o700


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
    assert keep("audit/models/tiny/000002.jsonl")
    assert not keep("audit/models/tiny/000003.jsonl")
    assert not keep("gc/plan.json")
    archived = belongs({}, 1, EventArchive(id="0123456789abcdef", segment=3))
    names = [f"events/0123456789abcdef/00000{number}.{ending}" for number in (2, 3) for ending in ("json", "jsonl.gz")]
    assert [archived(name) for name in names] == [True, True, False, False]
    assert archived("events/fedcba9876543210/000003.json"), "an archive of an earlier log is whole"
    assert not keep("gc/decisions/0123/sources/" + "ab" * 32)
    assert keep("blobs/sha256/ab/" + "ab" * 32)
    assert keep("manifests/merged/x.json")
    assert not keep("probe/x")
    assert not keep("data-format")


def test_a_key_names_its_digest_or_none():
    assert digest_in("checkpoints/tiny/blobs/sha256/ab/" + "ab" * 32) == "sha256:" + "ab" * 32
    assert digest_in("blobs/sha256/ab/" + "ab" * 31) is None
    assert digest_in("versions/tiny/1/manifest.json") is None


def test_a_stream_is_copied_again_once_anything_of_it_changed():
    state = {"messages": 3, "bytes": 10, "first_seq": 1, "last_seq": 3, "consumer_count": 1}
    copy = StreamCopy(name="S", created="t", config={"name": "S"}, state=state, chunks=())
    assert is_same_stream(copy, "t", {"name": "S"}, {**state, "consumer_count": 2})
    for changed in ({"messages": 2}, {"last_seq": 4}, {"bytes": 11}, {"first_seq": 2}, {"num_deleted": 1}):
        assert not is_same_stream(copy, "t", {"name": "S"}, {**state, **changed})
    assert not is_same_stream(copy, "later", {"name": "S"}, state)


def test_keys_open_with_their_passphrase_only(tmp_path):
    folder, back = tmp_path / "keys", tmp_path / "back"
    (folder / "credentials").mkdir(parents=True)
    (folder / "ca-key.pem").write_text("secret")
    (folder / "ca-key.pem").chmod(0o600)
    (folder / "console-local").symlink_to("credentials")
    data = pack(folder, "correct horse battery")
    assert b"secret" not in data
    with pytest.raises(CommandError, match="another one"):
        unpack(data, "incorrect horse battery", back)
    assert not back.exists() or not any(back.iterdir())
    unpack(data, "correct horse battery", back)
    assert (back / "ca-key.pem").read_text() == "secret"
    assert stat.S_IMODE((back / "ca-key.pem").stat().st_mode) == 0o600
    assert str((back / "console-local").readlink()) == "credentials"
    with pytest.raises(CommandError, match="holds keys already"):
        unpack(data, "correct horse battery", back)


def test_keys_that_are_too_much_work_for_a_machine_are_tried_again_and_blame_no_passphrase(tmp_path, monkeypatch):
    """age estimates the work from how fast the machine is at that moment; a busy one was told of a wrong passphrase."""
    monkeypatch.setattr(keys, "PAUSE_S", 0.0)
    (tmp_path / "ca-key.pem").write_text("secret")
    version, stanza, rest = pack(tmp_path, "correct horse battery").split(b"\n", 2)
    much = b"\n".join((version, stanza.rpartition(b" ")[0] + b" 40", rest))
    with pytest.raises(CommandError, match="too busy or too slow") as caught:
        unpack(much, "correct horse battery", tmp_path / "back")
    assert "another one" not in str(caught.value)
    assert not (tmp_path / "back").exists()


def member(name: str, kind: bytes = tarfile.REGTYPE, linkname: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, linkname
    return info


@pytest.mark.parametrize(
    "members",
    [
        [member("../outside")],
        [member("/outside")],
        [member("link", tarfile.SYMTYPE, "../outside")],
        [member("link", tarfile.LNKTYPE, "../outside")],
        [member("here", tarfile.SYMTYPE, "."), member("up", tarfile.SYMTYPE, "here/.."), member("up/outside")],
        [member("here", tarfile.SYMTYPE, "."), member("up", tarfile.SYMTYPE, "here/../outside"), member("up")],
        [member("here", tarfile.SYMTYPE, "."), member("up", tarfile.SYMTYPE, "here/../outside")],
        [member("up", tarfile.SYMTYPE, "other"), member("up")],
        [member("pipe", tarfile.FIFOTYPE)],
        [member("device", tarfile.CHRTYPE)],
    ],
)
def test_keys_that_would_be_written_elsewhere_are_refused(tmp_path, members):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for info in members:
            tar.addfile(info)
    with pytest.raises(CommandError, match="are not as `slipway backup` writes them"):
        extract(archive.getvalue(), tmp_path / "keys" / "back")
    assert not list(tmp_path.rglob("*outside"))


def test_a_short_passphrase_is_refused(tmp_path):
    (tmp_path / "short").write_text("secret\n")
    with pytest.raises(CommandError, match="has 6 characters, the shortest may have 16"):
        read_passphrase(tmp_path / "short")
    with pytest.raises(CommandError, match="cannot be read"):
        read_passphrase(tmp_path / "none")


def kept(location: Folder, **changed) -> BackupManifest:
    """Commit a backup of one object and one stream."""
    location.put(blob_of(b"weights"), [memoryview(b"weights")])
    location.put(blob_of(b"messages"), [memoryview(b"messages")])
    copy = ObjectCopy(key="blobs/x", version_id="1", modified=NOW, digest=digest_of(b"weights"), size_bytes=7)
    stream = StreamCopy(name="S", created="t", config={}, state={}, chunks=(blob_of(b"messages"),))
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
    assert verify(chosen, QUIET) == 15 + manifest.objects.size_bytes


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
    restore(str(tmp_path), check=True)
    with pytest.raises(CommandError) as refused:
        restore(str(tmp_path), check=True, nats=3)
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
        verify(choose(location, None, None), QUIET)


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


def test_a_location_without_the_backup_says_what_it_has(tmp_path):
    with pytest.raises(CommandError, match="it has none"):
        choose(Folder(tmp_path), None, None)
    manifest = kept(Folder(tmp_path))
    with pytest.raises(CommandError, match=f"it has {manifest.name()}"):
        choose(Folder(tmp_path), "20200101T000000000000Z", None)


def test_locations_in_a_bucket_need_a_server_of_their_own(tmp_path, monkeypatch):
    with pytest.raises(CommandError, match="SLIPWAY_BACKUP_S3_ENDPOINT"):
        open_location("s3://backups/slipway")
    with pytest.raises(CommandError, match="names no location of backups"):
        open_location("s3://")
    monkeypatch.setenv("SLIPWAY_BACKUP_S3_ENDPOINT", "store:443")
    monkeypatch.setenv("SLIPWAY_BACKUP_S3_CREDENTIALS", str(tmp_path / "backup.s3"))
    with pytest.raises(CommandError, match="the installation itself"):
        open_location("s3://slipway/x", Connection(s3_endpoint="store:443"))
    assert isinstance(open_location("s3://backups/x", Connection(s3_endpoint="store:443")), BucketPrefix)
    assert str(open_location(str(tmp_path))) == str(tmp_path)


def test_the_authority_and_the_region_of_the_backups_server_are_settings_of_their_own(tmp_path, monkeypatch):
    for name, value in {"ENDPOINT": "store:443", "CREDENTIALS": tmp_path / "b.s3", "REGION": "eu-central-1"}.items():
        monkeypatch.setenv(f"SLIPWAY_BACKUP_S3_{name}", str(value))
    monkeypatch.setenv("SLIPWAY_S3_REGION", "us-west-2")
    monkeypatch.setenv("SLIPWAY_S3_CA", str(tmp_path / "of-the-installation.pem"))
    location: Any = open_location("s3://backups/x")
    assert location._store._client._base_url.region == "eu-central-1"
    monkeypatch.setenv("SLIPWAY_BACKUP_S3_CA", str(tmp_path / "none.pem"))
    with pytest.raises(CommandError, match=r"SLIPWAY_BACKUP_S3_CA names .*none\.pem"):
        open_location("s3://backups/x")


def test_progress_names_what_is_copied_and_how_much(capsys):
    times = iter([0.0, 0.0, 1.0, 3.0])
    progress = Progress(lambda: next(times))
    progress.step("store", total=4096, items=2)
    progress.add_item(1024)
    progress.add_item(1024)
    assert capsys.readouterr().err.splitlines() == [
        "store: 0 of 2 objects, 0 bytes of 4.0 KiB",
        "store: 2 of 2 objects, 2.0 KiB of 4.0 KiB, 683 bytes/s",
    ]
    assert size_text(5 * 1024**4) == "5.0 TiB"
