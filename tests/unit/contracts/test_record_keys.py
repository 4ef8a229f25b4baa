"""Keys of records that there are for each model and environment."""

import pytest

from contracts.records import parse_record_key, record_key
from contracts.vocabulary import ENVIRONMENTS


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_a_key_names_its_environment_and_model(environment):
    assert parse_record_key(record_key(environment, "support-bot")) == (environment, "support-bot")


@pytest.mark.parametrize("key", ["prod.support-bot", "support-bot", "staging", "staging.", ".support-bot", ""])
def test_what_names_no_environment_or_no_model_is_no_key(key):
    assert parse_record_key(key) is None
