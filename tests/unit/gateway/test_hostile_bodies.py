"""Whatever bytes a caller sends: they are read, or refused; nothing else is raised, and nothing half-read goes on."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.domain import json_body, requests
from services.gateway.domain.errors import RequestRejected
from services.gateway.domain.requests import read_chat, read_completion
from tests.kit import hostile
from tests.kit.soak import often

READ = {hostile.CHAT: read_chat, hostile.COMPLETION: read_completion}


def read(path: str, raw: bytes):
    """Read a body as the endpoint does; return the problem where it is refused."""
    try:
        parsed = READ[path](json_body.parse_body(raw))
        return parsed, requests.plan_sampling(parsed, 2048)
    except RequestRejected as rejected:
        return rejected.problem, None


def understand(path: str, raw: bytes) -> str:
    """Check what becomes of a body, and return it."""
    parsed, sampling = read(path, raw)
    if sampling is None:
        assert parsed.status == 400
        assert len(json.dumps(parsed.body(), ensure_ascii=False).encode()) < 5_000
        return parsed.code
    everything = [parsed.model, parsed.prompt, parsed.user or "", *sampling.get("stop", [])]
    everything += [text for message in parsed.messages for text in message.values()]
    assert all(text.encode().decode() == text for text in everything)
    assert json.loads(json.dumps(sampling, allow_nan=False)) == sampling
    assert 1 <= sampling["max_tokens"] <= 2048
    return "read"


def test_the_corpus_is_read_or_refused():
    outcomes = [understand(path, raw.replace(b"MODEL", b"toy")) for path, raw in hostile.corpus()]
    assert outcomes.count("read") > 10
    assert outcomes.count("invalid_value") > 20
    assert outcomes.count("invalid_json") > 15


@settings(max_examples=often(400), deadline=None)
@given(hostile.requests("toy"))
def test_drawn_bodies_are_read_or_refused(body):
    understand(*body)


@settings(max_examples=often(300), deadline=None)
@given(st.binary(max_size=300) | hostile.ANY_JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_and_any_json_are_read_or_refused(raw):
    for path in READ:
        understand(path, raw)
