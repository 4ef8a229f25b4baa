"""Where `slipway publish` and `slipway base import` read folders outside the store from."""

import json

import pytest

from clients.cli.connection import StackAddress
from clients.cli.sources.external_source import configuration_of, open_source
from shared.errors import Permanent
from shared.runtime.settings import Connection


def test_an_empty_variable_switches_the_hub_off_for_a_stack_on_this_machine(monkeypatch):
    monkeypatch.setenv("SLIPWAY_HF_ENDPOINT", "")
    stack = StackAddress(Connection(), None, "test", ports={"nats": 1})
    with pytest.raises(Permanent) as caught:
        open_source(f"hf://acme/lora@{'0' * 40}", stack, quiet=True)
    assert caught.value.code == "uri_not_allowed"


@pytest.mark.parametrize("name", ["adapter_config.json", "config.json"])
def test_the_configuration_is_read_without_the_weights(monkeypatch, tmp_path, name):
    (tmp_path / name).write_text('{"r": 8}')
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setenv("SLIPWAY_FILE_ROOTS", json.dumps([str(tmp_path)]))
    source = open_source(tmp_path.as_uri(), StackAddress(Connection(), None, "test"), quiet=True)
    with configuration_of(source) as folder:
        assert {path.name: path.read_text() for path in folder.iterdir()} == {name: '{"r": 8}'}
