"""Keys of an installation: made once, replaced with overlap, withdrawn; what is refused, and what stays readable."""

import contextlib
import os
import stat
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from clients.cli.commands.installation.keys import keys_app
from contracts.identities import PROVISIONER, RESERVED, Credential
from contracts.services import SERVICES
from decisions.access.api_keys import assess_key, parse_key
from deploy.identity.api_key_files import REHEARSALS
from deploy.identity.bus_keys import public_key
from deploy.identity.certificates import KeyPair, belong_together, hosts_of, valid_until
from deploy.identity.key_files import KeysRefused
from deploy.identity.key_folder import KeyFolder
from deploy.local.plan import Keys, console_variables
from tests.kit.memory_folder import memory_folder

ROOT = Path(__file__).resolve().parents[3]
NOW = datetime(2026, 11, 26, tzinfo=UTC)


@pytest.fixture
def memory(tmp_path):
    """A folder where a sync is cheap: these tests write a thousand key folders."""
    with memory_folder(tmp_path) as folder:
        yield folder


@pytest.fixture
def keys(memory):
    folder = KeyFolder(memory / "keys")
    folder.prepare(["127.0.0.1", "localhost"], NOW)
    return folder


def named(keys):
    return {identity.name: identity for identity in keys.identities()}


def test_each_service_and_the_provisioner_has_a_key_of_its_own(keys):
    assert set(named(keys)) == {*SERVICES, PROVISIONER}
    seeds = {Credential.from_text(keys.credential(name).read_text()).seed.get_secret_value() for name in named(keys)}
    assert len(seeds) == len(SERVICES) + 1


def test_what_is_secret_is_for_its_owner_only(keys):
    credentials = [*(keys.path / "credentials").iterdir()]
    store = [path for path in keys.store.folder.rglob("*") if path.is_file() and path != keys.store.certificate]
    secret = [*credentials, *store, keys.path / "ca-key.pem", keys.certificate_key]
    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} == {0o600}
    assert stat.S_IMODE(keys.path.stat().st_mode) == 0o700
    listed = (keys.path / "identities.json").read_text() + keys.server_config.read_text()
    for path in (keys.path / "credentials").glob("*.nk"):
        assert Credential.from_text(path.read_text()).seed.get_secret_value() not in listed


def test_preparing_again_replaces_nothing(keys):
    before = {path: path.read_bytes() for path in keys.path.rglob("*") if path.is_file()}
    keys.prepare(["127.0.0.1"], NOW + timedelta(days=300))
    assert {path: path.read_bytes() for path in keys.path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("hosts", "later"), [(["127.0.0.1", "bus.example"], timedelta()), (["127.0.0.1"], timedelta(days=370))]
)
def test_a_certificate_for_other_hosts_or_near_its_end_is_replaced_and_its_authority_is_not(keys, hosts, later):
    authority = keys.authority.read_bytes()
    keys.prepare(hosts, NOW + later)
    certificate = keys.certificate.read_bytes()
    assert set(hosts) <= set(hosts_of(certificate))
    assert valid_until(certificate) > NOW + later + timedelta(days=365)
    assert keys.authority.read_bytes() == authority


def test_only_a_certificate_of_the_bus_lets_its_holder_into_a_cluster(keys):
    """Servers of a cluster trust each other: the store, whose certificate is from the same authority, must not join."""
    usages = [
        x509.load_pem_x509_certificate(path.read_bytes()).extensions.get_extension_for_class(x509.ExtendedKeyUsage)
        for path in (keys.certificate, keys.store.certificate)
    ]
    bus, store = (set(usage.value) for usage in usages)
    assert bus == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert store == {ExtendedKeyUsageOID.SERVER_AUTH}


def test_a_new_key_is_accepted_beside_the_old_one_until_that_is_retired(keys):
    keys.add("paula", ["publisher"], ["support-bot"])
    (old,) = named(keys)["paula"].public_keys
    keys.rotate("paula")
    assert named(keys)["paula"].public_keys[0] == old
    new = named(keys)["paula"].public_keys[1]
    assert keys.server_config.read_text().count("# paula") == 2
    with pytest.raises(KeysRefused, match="retire paula"):
        keys.rotate("paula")
    keys.retire("paula")
    assert named(keys)["paula"].public_keys == (new,)
    assert named(keys)["paula"].models == ("support-bot",)
    with pytest.raises(KeysRefused, match="rotate paula"):
        keys.retire("paula")
    keys.remove("paula")
    assert "paula" not in keys.server_config.read_text()
    with pytest.raises(KeysRefused, match="keys list"):
        keys.remove("paula")


def test_the_command_keeps_the_hosts_of_before_and_adds_new_ones(memory):
    folder = memory / "keys"
    for hosts in (["--host", "nats"], [], ["--host", "second"]):
        assert CliRunner().invoke(keys_app, ["init", *hosts, "--folder", str(folder)]).exit_code == 0
    assert KeyFolder(folder).hosts() == ("nats", "second")


@pytest.mark.parametrize("name", ["", "Paula", "a b", "../x", "a.b", "a>", "*", "x" * 64, "-a", *sorted(RESERVED)])
def test_names_that_are_no_token_of_a_subject_or_reserved_are_refused(keys, name):
    before = keys.identities()
    with pytest.raises(KeysRefused):
        keys.add(name, ["viewer"])
    assert keys.identities() == before


def test_a_user_needs_a_role_and_models_need_a_publisher(keys):
    with pytest.raises(KeysRefused, match="needs a role"):
        keys.add("paula", [])
    with pytest.raises(KeysRefused, match="role publisher"):
        keys.add("paula", ["viewer"], ["support-bot"])
    with pytest.raises(KeysRefused, match="part of Slipway"):
        keys.remove("registry")


def test_changes_at_once_both_take_effect(keys):
    threads = [threading.Thread(target=keys.add, args=(f"user-{number}", ["viewer"])) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {f"user-{number}" for number in range(8)} <= set(named(keys))


@given(st.text())
def test_a_file_that_is_no_credential_is_refused(text):
    try:
        credential = Credential.from_text(text)
    except ValueError:
        return
    assert Credential.from_text(credential.text()) == credential


class Killed(BaseException):
    """What ends a program between two steps."""


def die_at(monkeypatch, step):
    """End the program before its file operation number `step`; what is replaced or deleted is no code of ours."""
    done = 0
    replace, unlink = Path.replace, Path.unlink

    def counted(operation):
        def run(self, *arguments, **options):
            nonlocal done
            if operation is unlink and self.name.startswith("."):
                return operation(self, *arguments, **options)  # a draft
            done += 1
            if done == step:
                raise Killed
            return operation(self, *arguments, **options)

        return run

    monkeypatch.setattr(Path, "replace", counted(replace))
    monkeypatch.setattr(Path, "unlink", counted(unlink))


def accepted_by_the_bus(keys, name):
    """Return which of an identity's credentials the bus accepts."""
    files = (keys.credential(name), keys.former_credential(name))
    config = keys.server_config.read_text()
    return [file for file in files if file.is_file() and public_key(file) in config]


def interrupted(monkeypatch, change):
    """Do a change once for each of its steps, ended before that step, until it is done whole; yield after each end."""
    for step in range(1, 80):
        with monkeypatch.context() as patched:
            die_at(patched, step)
            try:
                change(step)
            except Killed:
                yield step
            else:
                assert step > 2, "no step was interrupted"
                return
    raise AssertionError("the change has no end")


def test_preparing_continues_after_an_end_at_any_step(memory, monkeypatch):
    def folder(step):
        return KeyFolder(memory / str(step))

    for step in interrupted(monkeypatch, lambda step: folder(step).prepare(["127.0.0.1"], NOW)):
        folder(step).prepare(["127.0.0.1"], NOW)
        keys = folder(step)
        assert set(named(keys)) == {*SERVICES, PROVISIONER}
        assert all(accepted_by_the_bus(keys, name) for name in named(keys))
        assert belong_together(KeyPair(keys.certificate.read_bytes(), keys.certificate_key.read_bytes()))
        assert belong_together(KeyPair(keys.authority.read_bytes(), (keys.path / "ca-key.pem").read_bytes()))


def test_a_new_certificate_that_was_interrupted_is_made_again(keys, monkeypatch):
    for _ in interrupted(monkeypatch, lambda step: keys.prepare([f"bus-{step}.example"], NOW)):
        keys.prepare(["127.0.0.1"], NOW)
        assert belong_together(KeyPair(keys.certificate.read_bytes(), keys.certificate_key.read_bytes()))


def test_a_rotation_that_ends_at_any_step_leaves_a_credential_that_works_and_is_completed_or_undone(
    memory, monkeypatch
):
    def folder(step):
        keys = KeyFolder(memory / str(step))
        if not keys.identities():
            keys.prepare(["127.0.0.1"], NOW)
            keys.add("paula", ["publisher", "viewer"])
        return keys

    for step in range(1, 80):
        keys = folder(step)
        with monkeypatch.context() as patched:
            die_at(patched, step)
            try:
                keys.rotate("paula")
            except Killed:
                pass
            else:
                break
        assert accepted_by_the_bus(keys, "paula"), f"no credential works after an end at step {step}"
        keys.prepare(["127.0.0.1"], NOW)  # whatever is done next
        count = len(named(keys)["paula"].public_keys)
        if count == 1:
            keys.rotate("paula")
        assert public_key(keys.credential("paula")) == named(keys)["paula"].public_keys[-1]
        assert public_key(keys.former_credential("paula")) == named(keys)["paula"].public_keys[0]
        assert set(accepted_by_the_bus(keys, "paula")) == {keys.credential("paula"), keys.former_credential("paula")}
        assert {file.name for file in keys.credential("x").parent.glob("paula*")} == {
            f"paula{kind}" for kind in (".nk", ".old.nk", ".s3", ".old.s3")
        }
        assert [key.text() for key in keys.store.accepted()["paula"]] == [
            path("paula").read_text() for path in (keys.store.former_credential, keys.store.credential)
        ]
    assert step >= 5


@pytest.mark.parametrize("change", ["retire", "remove", "add"])
def test_other_changes_that_end_at_any_step_can_be_done_again(memory, monkeypatch, change):
    def again(keys):
        arguments = [["viewer"]] if change == "add" else []
        getattr(keys, change)("paula", *arguments)

    for step in range(1, 20):
        keys = KeyFolder(memory / str(step))
        keys.prepare(["127.0.0.1"], NOW)
        if change != "add":
            keys.add("paula", ["publisher"])
            keys.rotate("paula")
        with monkeypatch.context() as patched:
            die_at(patched, step)
            try:
                again(keys)
            except Killed:
                pass
            else:
                break
        with contextlib.suppress(KeysRefused):  # it was done already
            again(keys)
        keys.prepare(["127.0.0.1"], NOW)
        left = named(keys).get("paula")
        assert (left is None) == (change == "remove")
        assert ("# paula" in keys.server_config.read_text()) == (change != "remove")
        if left is not None:
            assert left.public_keys == (public_key(keys.credential("paula")),)
            assert not keys.former_credential("paula").exists()
    assert step >= 3


@pytest.mark.parametrize("change", ["retire", "remove"])
def test_a_withdrawal_that_ends_at_any_step_is_complete_once_it_is_tried_again(memory, monkeypatch, change):
    """The repetition alone: nothing else is done in between, and a refusal says what is true."""
    for step in range(1, 40):
        keys = KeyFolder(memory / str(step))
        keys.prepare(["127.0.0.1"], NOW)
        keys.add("adam", ["administrator"])
        keys.rotate("adam")
        withdrawn = named(keys)["adam"].public_keys[: 1 if change == "retire" else 2]
        stored = keys.store.accepted()["adam"][: len(withdrawn)]
        with monkeypatch.context() as patched:
            die_at(patched, step)
            try:
                getattr(keys, change)("adam")
            except Killed:
                pass
            else:
                break
        with contextlib.suppress(KeysRefused):
            getattr(keys, change)("adam")
        for file in (keys.server_config, keys.path / "identities.json"):
            assert not [key for key in withdrawn if key in file.read_text()], f"{file.name}, after step {step}"
        assert not [key for key in stored if key.access_key in keys.store.server_config.read_text()], step
        gone = [keys.former_credential("adam"), keys.store.former_credential("adam")]
        gone += [keys.credential("adam"), keys.store.credential("adam")] if change == "remove" else []
        assert not [file.name for file in gone if file.exists()], step
    assert step >= 5


def test_an_authority_without_its_key_is_never_replaced(keys):
    (keys.path / "ca-key.pem").unlink()
    before = keys.authority.read_bytes()
    keys.prepare(["127.0.0.1"], NOW)
    with pytest.raises(KeysRefused, match="put it back"):
        keys.prepare(["bus.example"], NOW)
    assert keys.authority.read_bytes() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")
def test_what_root_changes_stays_with_the_owner_of_the_folder(keys):
    for path in (keys.path, *keys.path.rglob("*")):
        os.chown(path, 10001, 10001)
    keys.add("paula", ["publisher"])
    keys.rotate("paula")
    keys.prepare(["bus.example"], NOW)
    assert {path.stat().st_uid for path in (keys.path, *keys.path.rglob("*"))} == {10001}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_a_folder_of_another_user_is_refused_in_one_sentence(tmp_path):
    keys = KeyFolder(tmp_path / "keys")
    keys.prepare(["127.0.0.1"], NOW)
    keys.path.parent.chmod(0o755)
    script = (
        "import os, sys, clients.cli.commands.installation.keys; from clients.cli.main import main; sys.argv = ['slipway', *sys.argv[1:]]; "
        "os.setgroups([]); os.setgid(4321); os.setuid(4321); main()"
    )
    for arguments in (["list"], ["add", "paula", "--role", "viewer"], ["init"]):
        command = [sys.executable, "-c", script, "keys", *arguments, "--folder", str(keys.path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
        assert done.returncode == 1, done.stderr
        assert done.stderr.startswith(f"slipway: the keys in {keys.path} belong to another user"), done.stderr
        assert done.stderr.count("\n") == 1


def opens(keys, name, environment):
    presented = parse_key(keys.api_keys.key_file(name).read_text().strip())
    return assess_key(presented, keys.api_keys.entries().get(presented.key_id), environment, NOW) is None


def test_rehearsals_have_a_key_of_the_api_that_opens_staging_only(keys):
    assert opens(keys, REHEARSALS, "staging")
    assert not opens(keys, REHEARSALS, "production")
    secret = keys.api_keys.key_file(REHEARSALS)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert secret.read_text().strip().rsplit("-", 1)[1] not in keys.api_keys.listing.read_text()
    before = secret.read_text()
    keys.prepare(["127.0.0.1", "localhost"], NOW)
    assert secret.read_text() == before


@pytest.mark.parametrize("lost", ["key", "listing", "damaged"])
def test_a_key_of_the_api_that_is_lost_is_replaced_and_counts_no_more(keys, lost):
    former = parse_key(keys.api_keys.key_file(REHEARSALS).read_text().strip())
    if lost == "damaged":
        keys.api_keys.key_file(REHEARSALS).write_text("sk-slipway-")
    else:
        (keys.api_keys.key_file(REHEARSALS) if lost == "key" else keys.api_keys.listing).unlink()
    keys.prepare(["127.0.0.1", "localhost"], NOW)
    assert opens(keys, REHEARSALS, "staging")
    assert former.key_id not in keys.api_keys.entries()


def test_the_console_of_this_machine_gets_credentials_of_people_and_of_no_administrator_or_service(keys):
    for name, role in (("anna", "approver"), ("adam", "administrator"), ("oscar", "operator")):
        keys.add(name, [role])
    assert {file.name for file in keys.console.iterdir()} == {"anna.nk", "oscar.nk"}
    keys.rotate("anna")
    assert (keys.console / "anna.nk").read_bytes() == keys.credential("anna").read_bytes()
    keys.remove("oscar")
    assert {file.name for file in keys.console.iterdir()} == {"anna.nk"}
    assert stat.S_IMODE(keys.console.stat().st_mode) == 0o700
    ports = {"console": 1, "gateway": 2}
    assert console_variables(ports, Keys(keys.path))["CONSOLE_CREDENTIALS"] == str(keys.console)
