"""Bodies near those that callers send: tools, schemas, conversations, lists of prompts. Each is read or refused."""

import json
import random

from services.gateway.domain import requests
from services.gateway.domain.errors import RequestRejected
from services.gateway.domain.shaping import forced_metrics
from tests.kit.mutation import attack, hostile_json

TOOL = {
    "type": "function",
    "function": {
        "name": "find_order",
        "description": "Finds an order.",
        "parameters": {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]},
    },
}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "answer", "schema": TOOL["function"]["parameters"]}}
CALL = {"id": "c1", "type": "function", "function": {"name": "find_order", "arguments": '{"number": 7}'}}
MESSAGES = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": [{"type": "text", "text": "Where is order 7?"}]},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "It was sent."},
]
SAMPLING = {
    "temperature": 0.2,
    "top_p": 0.9,
    "n": 2,
    "stop": ["\n"],
    "logit_bias": {"7": -1},
    "seed": 3,
    "max_tokens": 9,
}
BODIES: dict[str, list[dict]] = {
    "/v1/chat/completions": [
        {"model": "toy", "messages": MESSAGES, "tools": [TOOL], "tool_choice": "auto", "stream": True},
        {"model": "toy", "messages": MESSAGES[:1], "response_format": SCHEMA, "logprobs": True, "top_logprobs": 2},
        {"model": "toy", "messages": MESSAGES[:2], **SAMPLING, "stream_options": {"include_usage": True}},
    ],
    "/v1/completions": [
        {"model": "toy", "prompt": ["a", "b"], "echo": False, **SAMPLING},
        {"model": "toy", "prompt": [1, 2]},
    ],
    "/v1/responses": [
        {"model": "toy", "input": [{"role": "user", "content": "hello"}], "instructions": "Be short."},
        {"model": "toy", "input": "hello", "tools": [{"type": "function", **TOOL["function"]}], "max_output_tokens": 9},
    ],
    "/v1/embeddings": [{"model": "toy", "input": ["a", "b"], "encoding_format": "float"}],
    "/tokenize": [{"model": "toy", "prompt": "hello"}, {"model": "toy", "messages": MESSAGES[:2]}],
}
PATHS = tuple(BODIES)
DRAWERS = {path: hostile_json(bodies) for path, bodies in BODIES.items()}


def draw_body(draw: random.Random) -> bytes:
    """Return a body; the first byte says for which path."""
    number = draw.randrange(len(PATHS))
    return bytes([number]) + DRAWERS[PATHS[number]](draw)


def describe(rejected: RequestRejected) -> str:
    """Return the code of a refusal, which is small and encodable."""
    assert rejected.problem.status in {400, 404}
    assert len(json.dumps(rejected.problem.body(), ensure_ascii=False).encode()) < 5_000
    return str(rejected.problem.code)


def take(data: bytes) -> str:
    path, raw = PATHS[data[0]], data[1:]
    try:
        parsed = requests.read_request(path, raw, requests.parse_body(raw))
        requests.check_request(parsed, 2048)
    except RequestRejected as rejected:
        return describe(rejected)
    json.dumps(parsed.body, allow_nan=False, ensure_ascii=False).encode()
    assert json.loads(json.dumps(parsed.body)) == json.loads(raw)
    forced_metrics(path, parsed.body)
    return "read"


def test_the_bodies_are_good():
    for path, bodies in BODIES.items():
        for body in bodies:
            assert take(bytes([PATHS.index(path)]) + json.dumps(body).encode()) == "read", body


def test_hostile_bodies_are_read_or_refused_with_a_code():
    outcome = attack(draw_body, take, inputs=2_000)
    assert outcome.counts["read"] > 100
    assert {"invalid_json", "invalid_value"} < set(outcome.counts)
