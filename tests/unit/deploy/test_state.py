"""The state folder: data of another format is refused with one sentence, never misread."""

import json

import pytest

from deploy.data_format import DATA_FORMAT, refuse
from deploy.local.state import StateFolder, foreign_data, new_description

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
