"""Variables of the environment that services refuse: named before a stack is started, and by each service."""

import pytest

from contracts.services import OPTIONAL
from deploy.local.plan import SERVICES
from deploy.local.variables import find_refused
from services.merger.settings import MergerSettings
from services.quantiser.settings import QuantiserSettings
from shared.runtime.settings import Connection, read_settings

REFUSED = {
    "QUANTISER_HELD_OUT_WINDOWS": "abc",
    "GATEWAY_WORKERS": "0",
    "SLIPWAY_LOG_LEVEL": "loud",
    "SLIPWAY_FILE_ROOTS": "/srv",
    "SLIPWAY_HF_ENDPOINT": "huggingface.co",
}


@pytest.mark.parametrize(("name", "value"), REFUSED.items())
def test_up_names_a_variable_that_a_service_refuses(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    refused = find_refused(SERVICES, {name: value})
    assert refused is not None
    assert name in refused
    assert len(refused.splitlines()) == 1


@pytest.mark.parametrize("service", [*SERVICES, *OPTIONAL])
def test_what_is_not_set_is_no_reason_to_refuse(service):
    assert find_refused((service,), {f"{service.upper().replace('-', '_')}_OTHER": "1"}) is None


def test_up_takes_what_is_valid_and_what_the_stack_sets_itself(monkeypatch):
    monkeypatch.setenv("QUANTISER_HELD_OUT_WINDOWS", "4")
    assert find_refused(SERVICES, {"QUANTISER_HELD_OUT_WINDOWS": "4"}) is None
    monkeypatch.setenv("CONSOLE_ANSWER_S", "5")
    assert find_refused(SERVICES, {"CONSOLE_ANSWER_S": "5"}) is None


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (QuantiserSettings, "QUANTISER_HELD_OUT_WINDOWS", "abc"),
        (Connection, "SLIPWAY_LOG_LEVEL", "loud"),
        (MergerSettings, "SLIPWAY_FILE_ROOTS", "/srv"),
        (MergerSettings, "SLIPWAY_SOURCE_MAX_FILES", "0"),
    ],
)
def test_a_service_ends_with_one_sentence_that_names_the_variable(monkeypatch, kind, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        read_settings(kind)
    assert name in str(ended.value)
    assert len(str(ended.value).splitlines()) == 1


def test_a_secret_is_not_shown(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf-abc")
    monkeypatch.setenv("SLIPWAY_SOURCE_MAX_FILES", "0")
    with pytest.raises(SystemExit) as ended:
        read_settings(MergerSettings)
    assert "hf-abc" not in str(ended.value)
