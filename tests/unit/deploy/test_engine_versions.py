"""Gateways and backends of different versions: each takes what the other adds, and does without what it lacks (ADR 0035)."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from contracts.vocabulary import digest_of
from services.gateway.domain.records import read_record
from services.server_manager.domain.fencing import AgentRequest
from shared.serving.openai_stream import ApiRequest, build_message, read_pieces
from tests.unit.deploy.backend import load_backend
from tests.unit.fuzz.engine_answers import HEAD, RECORD, ROWS, response, tensor

LATER = {"added_later": {"nested": [1, None]}}
FIRST_REQUEST = {"method": "POST", "path": "/v1/completions", "request_id": "r1", "deadline_s": 60.0}
"""What a backend has needed since its first version; no other field may be needed."""


def bodies(count):
    return tensor(*[b"{}"] * count)


def as_parts(pieces):
    return [(each.request_id, each.number, each.is_last, each.piece.status, each.piece.body) for each in pieces]


def test_a_gateway_reads_the_frames_of_a_newer_backend():
    def frames(rows):
        return read_pieces(response(http_record=tensor(json.dumps(rows).encode()), http_body=bodies(len(rows))))

    newer = [row | LATER | {"record": row.get("record", {}) | LATER} for row in ROWS]
    assert as_parts(frames(newer)) == as_parts(frames(ROWS))


def test_a_gateway_reads_the_single_answer_of_a_newer_backend():
    def answer(record, head):
        tensors = {"http_record": tensor(json.dumps(record).encode()), "http_head": tensor(json.dumps(head).encode())}
        return read_pieces(response(**tensors, http_body=bodies(1), http_later=tensor(b"{}")))

    (newer,), (now,) = answer(RECORD | LATER, HEAD | LATER), answer(RECORD, HEAD)
    assert (newer.piece.status, newer.piece.headers) == (now.piece.status, now.piece.headers)
    assert read_record(newer.piece.record) == read_record(now.piece.record)


@pytest.mark.parametrize("head", [FIRST_REQUEST, FIRST_REQUEST | LATER])
def test_a_backend_takes_the_requests_of_older_and_of_newer_gateways(monkeypatch, head):
    with load_backend(monkeypatch, "engine_tensors") as tensors:
        value = SimpleNamespace(as_numpy=lambda: np.asarray([json.dumps(head).encode()], dtype=np.object_))
        ask = tensors.parse_http({"http_request": value})
        assert (ask.method, ask.path, ask.request_id, ask.deadline_s) == tuple(FIRST_REQUEST.values())
        assert (ask.cache_salt, ask.stream, ask.traceparent) == (None, None, None)


def test_a_gateway_sends_no_tensor_that_a_loaded_model_may_not_declare():
    """Triton refuses an input that is not in the configuration a model was loaded with, which may be an old one."""
    request = ApiRequest(method="POST", path="/v1/completions", body=b"{}", request_id="r1", deadline_s=60.0)
    message = build_message("bot.v1.bf16", request, "t1", "s")
    assert [each.name for each in message.inputs] == ["http_request", "http_body"]


def test_an_agent_reads_what_a_newer_server_manager_signs():
    signed = AgentRequest(
        method="/m", instance="i", sequence=1, holder="h", term=2, digest=digest_of(b"x").removeprefix("sha256:")
    )
    newer = json.dumps(signed.model_dump(mode="json") | LATER)
    assert AgentRequest.model_validate_json(newer) == signed
