"""Which key opens what."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from contracts.api_keys import ApiKey, KeyLimits
from decisions.access.api_keys import assess_key, digest_of_secret, format_key, opens_model, parse_key

NOW = datetime(2026, 3, 1, tzinfo=UTC)
SECRET = "ab" * 32
ID = "0123456789ab"
GOOD = parse_key(format_key(ID, SECRET))


def key(**changes) -> ApiKey:
    fields = {
        "key_id": ID,
        "name": "shop",
        "secret_digest": digest_of_secret(SECRET),
        "issued_at": NOW,
        "issued_by": "ada",
    }
    return ApiKey(**(fields | changes))


def test_a_good_key_opens_production():
    assert assess_key(GOOD, key(), "production", NOW) is None


@pytest.mark.parametrize(
    ("problem", "presented", "record", "environment", "now"),
    [
        ("no_key", None, key(), "production", NOW),
        ("invalid_key", GOOD, None, "production", NOW),
        ("invalid_key", parse_key(format_key(ID, "cd" * 32)), key(), "production", NOW),
        ("invalid_key", GOOD, key(key_id="ba9876543210"), "production", NOW),
        ("invalid_key", parse_key(format_key(ID, "cd" * 32)), key(revoked_at=NOW), "production", NOW),
        ("key_revoked", GOOD, key(revoked_at=NOW), "production", NOW),
        ("key_expired", GOOD, key(expires_at=NOW + timedelta(days=1)), "production", NOW + timedelta(days=1)),
        ("environment_not_allowed", GOOD, key(), "staging", NOW),
    ],
)
def test_each_problem(problem, presented, record, environment, now):
    assert assess_key(presented, record, environment, now) == problem


def test_a_key_for_staging_opens_staging_only():
    record = key(environments=("staging",))
    assert assess_key(GOOD, record, "staging", NOW) is None
    assert assess_key(GOOD, record, "production", NOW) == "environment_not_allowed"


def test_a_key_opens_its_models():
    assert opens_model(key(), "support-bot")
    assert opens_model(key(models=("support-bot",)), "support-bot")
    assert not opens_model(key(models=("support-bot",)), "other-bot")


def test_a_key_that_never_counts_is_refused():
    with pytest.raises(ValidationError):
        key(expires_at=NOW)
    with pytest.raises(ValidationError):
        key(environments=())
    with pytest.raises(ValidationError):
        KeyLimits(requests_per_minute=0)


@given(st.text(max_size=120) | st.from_regex(re.compile(r"sk-slipway-[0-9a-f]{10,14}-[0-9a-f]{62,66}"), fullmatch=True))
def test_only_a_whole_key_is_one(text):
    parsed = parse_key(text)
    assert parsed is None or format_key(parsed.key_id, parsed.secret) == text


def test_a_record_holds_no_secret():
    assert SECRET not in key().model_dump_json()
