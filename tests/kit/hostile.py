"""Bodies that a hostile caller may send: a committed corpus, and strategies that make any number of others."""

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.kit.soak import often

CORPUS = Path(__file__).with_name("hostile_bodies.jsonl")
COUNT = often(1000)
"""How many bodies a test sends in all, corpus included; the corpus is always sent whole."""
CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"

_TEXTS = (
    "",
    " ",
    "\x00",
    "\x00" * 50,
    "\ud800",
    "a\udfffb",
    "\ud83d",
    "\ufeff",
    "\u202e\u2066",
    "\x7f\x1b[2J",
    "\n" * 200,
    "e\u0301" * 99,
    "<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>",
    "{{ 1/0 }}",
    "{% raw %}",
    "\U0010ffff",
    "\uffff\ufffe",
    "ẞ" * 300,
    "🏴" * 80,
    "x" * 2_000,
    "data: [DONE]\n\n",
    '"}]}',
    "' OR 1=1 --",
    "../../etc/passwd",
    "\r\nx-slipway-environment: staging\r\n",
    "hello",
)
_NUMBERS = (
    "0",
    "1",
    "-1",
    "2",
    "16",
    "0.0",
    "-0.0",
    "0.5",
    "1e-320",
    "1e308",
    "1e309",
    "-1e309",
    "NaN",
    "Infinity",
    "-Infinity",
    "2147483647",
    "2147483648",
    "-2147483649",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775809",
    "1" + "0" * 40,
    "1" + "0" * 5000,
    "1e5",
    "0.1e1",
    "true",
    "false",
    "null",
    '"1"',
    "[]",
    "{}",
    "[1]",
    "01",
    "+1",
    "0x1",
    ".5",
    "1.",
)
_FIELDS = (
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "top_k",
    "min_p",
    "repetition_penalty",
    "min_tokens",
    "ignore_eos",
    "max_tokens",
    "max_completion_tokens",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "user",
    "model",
    "messages",
    "prompt",
    "n",
    "best_of",
    "echo",
    "suffix",
    "logprobs",
    "top_logprobs",
    "logit_bias",
    "tools",
    "tool_choice",
    "response_format",
    "metadata",
    "store",
    "prompt_logprobs",
    "guided_json",
    "structured_outputs",
    "cache_salt",
    "return_token_ids",
    "no_such_field",
    "__class__",
    "",
    "\ud800",
)
_ROLES = ("user", "system", "assistant", "developer", "tool", "function", "", "\x00", "\ud800", "User")


def quote(text: str) -> str:
    """Write a string as JSON; lone surrogates are escaped."""
    return json.dumps(text)


def nested(depth: int, kind: str) -> str:
    """Return JSON nested so deep."""
    return "[" * depth + "]" * depth if kind == "list" else '{"a":' * depth + "1" + "}" * depth


def value(draw: random.Random) -> str:
    """Return any JSON value, or what is nearly one."""
    kind = draw.randrange(8)
    if kind < 3:
        return quote(draw.choice(_TEXTS))
    if kind < 5:
        return draw.choice(_NUMBERS)
    if kind == 5:
        return nested(draw.choice((1, 2, 15, 17, 200, 2_000, 50_000)), draw.choice(("list", "object")))
    if kind == 6:
        return "[" + ",".join(quote(draw.choice(_TEXTS)) for _ in range(draw.randrange(7))) + "]"
    return (
        "{" + ",".join(f"{quote(draw.choice(_FIELDS))}:{draw.choice(_NUMBERS)}" for _ in range(draw.randrange(4))) + "}"
    )


def message(draw: random.Random) -> str:
    """Return a message, or nearly one."""
    if not draw.randrange(6):
        return value(draw)
    content = quote(draw.choice(_TEXTS)) if draw.randrange(4) else value(draw)
    if not draw.randrange(6):
        content = '[{"type":"text","text":' + content + "}]"
    role = quote(draw.choice(_ROLES)) if draw.randrange(4) else value(draw)
    return (
        '{"role":'
        + role
        + ',"content":'
        + content
        + ("," + '"name":' + value(draw) if not draw.randrange(6) else "")
        + "}"
    )


def body(draw: random.Random, path: str, model: str) -> bytes:
    """Return one body: a good request of which some parts are changed, then perhaps its bytes."""
    fields = {"model": quote(model), "max_tokens": "3"}
    if path == CHAT:
        fields["messages"] = "[" + ",".join(message(draw) for _ in range(draw.choice((0, 1, 1, 1, 2, 3)))) + "]"
        if draw.randrange(2):
            fields["messages"] = '[{"role":"user","content":"hello"}]'
    else:
        fields["prompt"] = quote(draw.choice(_TEXTS)) if draw.randrange(3) else '"hello"'
    for _ in range(draw.randrange(4)):
        fields[draw.choice(_FIELDS)] = draw.choice(_NUMBERS) if draw.randrange(2) else value(draw)
    if not draw.randrange(8):
        fields["stream"] = "true"
    pairs = [f"{quote(name)}:{text}" for name, text in fields.items()]
    if not draw.randrange(20):
        pairs.append(draw.choice(pairs))
    raw = ("{" + ",".join(pairs) + "}").encode()
    return _damaged(draw, raw) if not draw.randrange(8) else raw


def _damaged(draw: random.Random, raw: bytes) -> bytes:
    at = draw.randrange(len(raw))
    whole = (
        b"",
        b"null",
        b"[]",
        b"1",
        b'""',
        b"\x00",
        b"\xff\xfe",
        b"{",
        b"}",
        raw + raw,
        raw[:at],
        raw[:at] + b"\x00" + raw[at:],
    )
    encoded = tuple(raw.decode().encode(name) for name in ("utf-16", "utf-32", "utf-8-sig"))
    changed = raw[:at] + bytes([draw.randrange(256)]) + raw[at + 1 :]
    return draw.choice((*whole, *encoded, changed, changed, changed, raw[:at] + b"\xed\xa0\x80" + raw[at:]))


def corpus() -> list[tuple[str, bytes]]:
    """Return the committed bodies, each with its path.

    In the file they are Latin-1, so that any byte can be written; `parts` are texts with how often they come.
    """
    bodies = []
    for line in CORPUS.read_text().splitlines():
        record = json.loads(line)
        text = record["body"] if "body" in record else "".join(part * times for part, times in record["parts"])
        bodies.append((CHAT if record["to"] == "chat" else COMPLETION, text.encode("latin-1")))
    return bodies


ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=60)
"""Any text, lone surrogates too."""
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=12,
)


def requests(model: str) -> st.SearchStrategy[tuple[str, bytes]]:
    """Return the strategy of hostile requests: a path and a body."""
    path = st.sampled_from((CHAT, COMPLETION))
    composed = st.builds(
        lambda draw, path: (path, body(draw, path, model)),
        st.randoms(use_true_random=False, note_method_calls=False),
        path,
    )
    changed = st.builds(
        lambda path, name, value: (path, json.dumps({**_good(path, model), name: value}).encode()),
        path,
        st.sampled_from(_FIELDS) | ANY_TEXT,
        ANY_JSON,
    )
    return composed | composed | changed | st.tuples(path, st.binary(max_size=200))


def _good(path: str, model: str) -> dict[str, object]:
    asked = {"messages": [{"role": "user", "content": "hello"}]} if path == CHAT else {"prompt": "hello"}
    return {"model": model, "max_tokens": 3, **asked}


def send_all(
    send: Callable[[str, bytes], None], model: str, count: int = COUNT, *, start: int = 1, step: int = 1
) -> None:
    """Send so many hostile requests: the corpus, with the model's name put in, then such as hypothesis finds.

    Args:
        send: takes a path and a body.
        model: what the bodies ask for.
        count: of all requests.
        start: seeds what hypothesis draws.
        step: of the corpus each such is sent, for a server that is slow.
    """
    known = corpus()[::step]
    for path, raw in known:
        send(path, raw.replace(b"MODEL", model.encode()))

    @seed(start)
    @settings(
        max_examples=max(1, count - len(known)),
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(requests(model))
    def drawn(request: tuple[str, bytes]) -> None:
        send(*request)

    drawn()


@dataclass
class Storm:
    """What became of hostile requests.

    Attributes:
        statuses: how many answers had each status.
        failed: what was answered with a 5xx, broke off or did not come (status 0): path, beginning of the body, status,
            beginning of the answer.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    failed: list[tuple[str, bytes, int, str]] = field(default_factory=list)


def storm(
    base_url: str, model: str, count: int = COUNT, *, step: int = 1, headers: dict[str, str] | None = None
) -> Storm:
    """Send hostile requests to a gateway, one after another."""
    result = Storm()
    with httpx.Client(base_url=base_url, headers=headers, timeout=60) as http:

        def send(path: str, raw: bytes) -> None:
            try:
                answer = http.post(path, content=raw, headers={"content-type": "application/json"})
            except httpx.TransportError as error:
                result.failed.append((path, raw[:500], 0, repr(error)))
                return
            result.statuses[answer.status_code] += 1
            broke_off = answer.status_code == 200 and b'"error"' in answer.content
            if answer.status_code >= 500 or broke_off:
                result.failed.append((path, raw[:500], answer.status_code, answer.text[:500]))

        send_all(send, model, count, step=step)
    return result
