"""Keys of an installation: made once, replaced with overlap, withdrawn; what is refused, and what stays readable."""

import stat
import threading
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from clients.cli.commands.keys import keys_app
from contracts.identities import PROVISIONER, RESERVED, Credential
from contracts.services import SERVICES
from deploy.identity.certificates import hosts_of, valid_until
from deploy.identity.key_folder import KeyFolder, KeysRefused

NOW = datetime(2026, 11, 26, tzinfo=UTC)


@pytest.fixture
def keys(tmp_path):
    folder = KeyFolder(tmp_path / "keys")
    folder.prepare(["127.0.0.1", "localhost"], NOW)
    return folder


def named(keys):
    return {identity.name: identity for identity in keys.identities()}


def test_each_service_and_the_provisioner_has_a_key_of_its_own(keys):
    assert set(named(keys)) == {*SERVICES, PROVISIONER}
    seeds = {Credential.from_text(keys.credential(name).read_text()).seed.get_secret_value() for name in named(keys)}
    assert len(seeds) == len(SERVICES) + 1


def test_what_is_secret_is_for_its_owner_only(keys):
    secret = [*(keys.path / "credentials").iterdir(), keys.path / "ca-key.pem", keys.path / "bus-key.pem"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} == {0o600}
    assert stat.S_IMODE(keys.path.stat().st_mode) == 0o700
    listed = (keys.path / "identities.json").read_text() + keys.server_config.read_text()
    for path in (keys.path / "credentials").iterdir():
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
    certificate = (keys.path / "bus.pem").read_bytes()
    assert set(hosts) <= set(hosts_of(certificate))
    assert valid_until(certificate) > NOW + later + timedelta(days=365)
    assert keys.authority.read_bytes() == authority


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


def test_the_command_keeps_the_hosts_of_before_and_adds_new_ones(tmp_path):
    folder = tmp_path / "keys"
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
