"""Whatever bytes a caller sends: they are read, or refused; nothing else is raised, and nothing half-read goes on."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.domain import requests
from services.gateway.domain.errors import RequestRejected
from services.gateway.domain.shaping import forced_metrics
from tests.kit import hostile
from tests.kit.soak import often

PATHS = (hostile.CHAT, hostile.COMPLETION, "/v1/responses")


def understand(path: str, raw: bytes) -> str:
    """Read a body as the endpoint does, check what becomes of it, and return that."""
    try:
        parsed = requests.read_request(path, raw, requests.parse_body(raw))
        requests.check_request(parsed, 2048)
    except RequestRejected as rejected:
        problem = rejected.problem
        assert problem.status == 400
        assert len(json.dumps(problem.body(), ensure_ascii=False).encode()) < 5_000
        return problem.code
    everything = [parsed.model, parsed.text]
    assert all(text.encode().decode() == text for text in everything)
    assert json.loads(json.dumps(parsed.body, allow_nan=False)) == json.loads(raw)
    forced_metrics(path, parsed.body)
    return "read"


def test_the_corpus_is_read_or_refused():
    outcomes = [understand(path, raw.replace(b"MODEL", b"toy")) for path, raw in hostile.corpus()]
    assert outcomes.count("read") > 10
    assert outcomes.count("invalid_value") > 20
    assert outcomes.count("invalid_json") > 15


@settings(max_examples=often(150), deadline=None)
@given(hostile.requests("toy"))
def test_drawn_bodies_are_read_or_refused(body):
    understand(*body)


@settings(max_examples=often(100), deadline=None)
@given(st.binary(max_size=300) | hostile.ANY_JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_and_any_json_are_read_or_refused(raw):
    for path in PATHS:
        understand(path, raw)
