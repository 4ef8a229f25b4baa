"""The person of this machine: `slipway up` makes one who approves and operates; `slipway open` signs in as that one."""

from dataclasses import replace

import pytest

from deploy.local.plan import Keys, connection_variables
from deploy.local.state import ADMIN, PERSON, StateFolder, new_description, prepare_keys
from shared.provenance.login_links import named_in
from shared.runtime.clock import SystemClock
from tests.kit.command import run_command

CONSOLE = "http://127.0.0.1:9"


@pytest.fixture
def folder(tmp_path):
    return StateFolder(tmp_path / "state")


@pytest.fixture
def keys(folder):
    return prepare_keys(folder.path, SystemClock())


def test_the_person_operates_and_approves_and_the_console_orders_as_that_person_only(keys):
    by_name = {identity.name: identity for identity in keys.identities()}
    assert by_name[PERSON].roles == ("operator", "approver")
    assert by_name[ADMIN].roles == ("administrator",)
    assert [file.stem for file in keys.console.iterdir()] == [PERSON]
    assert keys.credential(PERSON).stat().st_mode & 0o077 == 0


def test_a_second_start_keeps_the_key_and_the_roles_that_were_changed(folder, keys):
    keys.remove(PERSON)
    keys.add(PERSON, ["viewer"])
    key = keys.credential(PERSON).read_text()
    again = prepare_keys(folder.path, SystemClock())
    assert again.credential(PERSON).read_text() == key
    assert next(each for each in again.identities() if each.name == PERSON).roles == ("viewer",)


def test_a_person_who_was_removed_stays_removed(folder, keys):
    keys.remove(PERSON)
    again = prepare_keys(folder.path, SystemClock())
    assert PERSON not in {identity.name for identity in again.identities()}
    assert not again.credential(PERSON).is_file(), "a stack that starts then signs in its administrator"


def signed_in_as(output):
    return named_in(output.strip().rpartition("token=")[2])


def test_the_link_signs_in_as_the_person_and_a_key_as_its_own(folder, keys):
    variables = {
        "SLIPWAY_NATS_URL": "nats://127.0.0.1:1",
        "SLIPWAY_NATS_CREDENTIALS": str(keys.credential(ADMIN)),
        "SLIPWAY_CONSOLE_URL": CONSOLE,
    }
    assert signed_in_as(run_command(variables, "open")[1]) == ADMIN
    of_person = {**variables, "SLIPWAY_CONSOLE_CREDENTIALS": str(keys.credential(PERSON))}
    assert signed_in_as(run_command(of_person, "open")[1]) == PERSON
    assert signed_in_as(run_command(of_person, "open", "--key", str(keys.credential(ADMIN)))[1]) == ADMIN
    status, _, complaint = run_command(of_person, "open", "--key", str(folder.path / "none.nk"))
    assert (status, "no readable credential" in complaint) == (1, True)


def test_the_link_of_a_stack_in_a_folder_is_of_the_person(folder, keys):
    described = connection_variables(folder.path, {"nats": 1, "s3": 1}, Keys(keys.path), ADMIN) | {
        "SLIPWAY_GATEWAY_URL": "http://127.0.0.1:1",
        "SLIPWAY_GATEWAY_KEY": str(keys.api_keys.key_file(ADMIN)),
        "SLIPWAY_CONSOLE_URL": CONSOLE,
        "SLIPWAY_CONSOLE_CREDENTIALS": str(keys.credential(PERSON)),
    }
    folder.write_description(replace(new_description(), variables=described))
    status, link, complaint = run_command({}, "open", "--state", str(folder.path))
    assert (status, complaint) == (0, "")
    assert signed_in_as(link) == PERSON
