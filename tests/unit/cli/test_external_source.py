"""Where `slipway publish` and `slipway base import` read folders outside the store from."""

import pytest

from clients.cli.connection import StackAddress
from clients.cli.external_source import open_source
from shared.errors import Permanent
from shared.runtime.settings import Connection


def test_an_empty_variable_switches_the_hub_off_for_a_stack_on_this_machine(monkeypatch):
    monkeypatch.setenv("SLIPWAY_HF_ENDPOINT", "")
    stack = StackAddress(Connection(), None, "test", ports={"nats": 1})
    with pytest.raises(Permanent) as caught:
        open_source(f"hf://acme/lora@{'0' * 40}", stack, quiet=True)
    assert caught.value.code == "uri_not_allowed"
