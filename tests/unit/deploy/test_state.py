"""The state folder: data of another format is refused with one sentence, never misread."""

import io
import json
from pathlib import Path

import pytest

from deploy.data_format import DATA_FORMAT, refuse
from deploy.local import bus
from deploy.local.plan import Programs, StackConfig
from deploy.local.state import StateFolder, foreign_data, new_description
from deploy.local.supervisor import Options, Supervisor
from deploy.local.view import View
from shared.runtime.clock import SystemClock

OLD = {"stack_id": "a", "ports": {}, "s3_access_key": "k", "s3_secret_key": "s", "variables": {}, "engine": "toy"}


@pytest.fixture
def folder(tmp_path):
    folder = StateFolder(tmp_path / "state")
    folder.create()
    return folder


def test_a_new_folder_carries_the_format_of_this_slipway(folder):
    folder.write_description(new_description())
    description = folder.read_description()
    assert description.data_format == DATA_FORMAT
    assert foreign_data(description, folder.path) is None


@pytest.mark.parametrize(
    ("data_format", "which"), [(None, "an older"), (DATA_FORMAT - 1, "an older"), (DATA_FORMAT + 1, "a newer")]
)
def test_data_of_another_format_is_refused_in_one_sentence_that_says_what_to_do(folder, data_format, which):
    """Before there was a number, stack.json had none."""
    (folder.path / "stack.json").write_text(json.dumps(OLD | ({"data_format": data_format} if data_format else {})))
    sentence = foreign_data(folder.read_description(), folder.path)
    assert f"holds data of {which} Slipway (format {data_format or 0}, this one uses {DATA_FORMAT})" in sentence
    assert "--state FOLDER" in sentence
    assert "\n" not in sentence


def test_data_without_a_recorded_format_may_be_of_something_else():
    sentence = refuse("The bucket b holds", None, "start with an empty one")
    assert sentence is not None
    assert sentence.startswith(
        "The bucket b holds data of an older Slipway, or of something else (no format is recorded"
    )
    assert sentence.endswith("; start with an empty one")


def test_the_file_of_a_newer_slipway_is_refused_by_its_format_whatever_fields_it_adds(folder):
    newer = OLD | {"data_format": DATA_FORMAT + 1, "a_field_of_the_future": {}}
    (folder.path / "stack.json").write_text(json.dumps(newer))
    assert "a newer Slipway" in foreign_data(folder.read_description(), folder.path)


def described(folder, servers):
    """Return the description that a start with so many NATS servers writes, before it starts any of them."""
    programs = Programs(Path("/bin/nats-server"), Path("/bin/weed"), Path("/bin/python"), Path("/source"))
    options = Options(StackConfig("toy", nats=servers), programs, Path("/engine"), {})
    Supervisor(folder, options, View(quiet=True, out=io.StringIO()), SystemClock())._describe()
    return folder.read_description()


@pytest.mark.parametrize(("before", "now"), [(3, 1), (1, 3)])
def test_the_number_of_nats_servers_is_fixed_once_one_of_them_has_stored_anything(folder, before, now):
    described(folder, before)
    again = described(folder, now)
    assert bus.servers_in(again.ports) == bus.server_names(now)
    (folder.path / "nats" / "jetstream").mkdir(parents=True)
    kept = described(folder, before)
    assert set(bus.servers_in(again.ports)) <= set(bus.servers_in(kept.ports)), "what stored anything is never left out"
