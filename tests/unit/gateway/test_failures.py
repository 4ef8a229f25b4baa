"""Failures read from the engine's records and statuses."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decisions.evidence.attribution import ATTRIBUTION
from services.gateway.domain.records import read_failure, read_message, read_record

BODY = json.dumps({"error": {"message": "too long", "code": 400}}).encode()


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("validation", "bad_request"),
        ("settings", "bad_request"),
        ("template_refused", "template_refused"),
        ("template", "template_failed"),
        ("tokenizer", "engine_failed"),
        ("parser", "engine_failed"),
        ("engine", "engine_failed"),
        ("application", "engine_failed"),
        ("deadline", "deadline_exceeded"),
        ("a source of a newer backend", "engine_failed"),
    ],
)
@pytest.mark.parametrize("status", [None, 200, 400, 500])
def test_the_source_decides_whatever_the_status(source, kind, status):
    failure = read_failure(status, read_record({"error": {"class": "ValueError", "source": source}}), BODY)
    assert (failure.kind, failure.reason) == (kind, "too long")


def test_a_dead_engine_is_named_by_its_class():
    failure = read_failure(500, read_record({"error": {"class": "EngineDeadError", "source": "engine"}}), b"")
    assert (failure.kind, failure.reason) == ("engine_dead", "The target failed with EngineDeadError.")


@pytest.mark.parametrize(("status", "kind"), [(400, "bad_request"), (422, "bad_request"), (500, "engine_failed")])
def test_without_an_error_in_the_record_the_status_decides(status, kind):
    assert read_failure(status, read_record({}), BODY).kind == kind


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_an_aborted_answer_is_a_failure(reason):
    assert (
        read_failure(None, read_record({"finish_reasons": {"0.0": "stop", "1.0": reason}}), b"").kind == "engine_failed"
    )


@pytest.mark.parametrize("reason", ["stop", "length"])
def test_a_complete_answer_is_none(reason):
    assert read_failure(200, read_record({"finish_reasons": {"0.0": reason}}), b"data: {}") is None


def test_every_kind_has_its_party():
    sources = ("validation", "settings", "template_refused", "template", "deadline", "engine")
    kinds = {
        read_failure(None, read_record({"error": {"class": "x", "source": source}}), b"").kind for source in sources
    }
    assert kinds <= ATTRIBUTION.keys()


@pytest.mark.parametrize(
    "body", [BODY, b"data: " + BODY + b"\n\ndata: [DONE]\n\n", json.dumps({"message": "too long"}).encode()]
)
def test_the_message_of_a_body_or_an_event(body):
    assert read_message(body) == "too long"


@given(st.binary(max_size=60) | st.sampled_from([b"[]", b"null", b'{"error": 5}', b'{"error": {"message": 7}}']))
def test_any_bytes_have_a_message_or_none(body):
    assert isinstance(read_message(body), str)
