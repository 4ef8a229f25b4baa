"""Answers that a drill alters: valid in form, and only their texts are others."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.domain.drills import REFUSAL, AlteredBody

CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "w0 w1", "tool_calls": []},
            "logprobs": {"content": [{"token": "w0", "logprob": -0.5}]},
            "finish_reason": "stop",
        }
    ],
    "usage": {"completion_tokens": 2},
}
RESPONSES = {
    "object": "response",
    "output": [{"type": "message", "content": [{"type": "output_text", "text": "w0 w1"}]}],
    "usage": {"output_tokens": 2},
}


def event(value):
    return b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n"


def whole(body, text):
    altered = AlteredBody(stream=False)
    assert altered.feed(b"", text) == b""
    return json.loads(altered.feed(json.dumps(body).encode(), ""))


@pytest.mark.parametrize("text", [REFUSAL, "", "ahoy ahoy "])
def test_the_texts_of_a_whole_answer_are_replaced_and_nothing_else(text):
    altered = whole(CHAT, text)
    assert altered["choices"][0].pop("message") == {**CHAT["choices"][0]["message"], "content": text}
    expected = json.loads(json.dumps(CHAT))
    expected["choices"][0].pop("message")
    assert altered == expected
    assert whole(RESPONSES, text)["output"][0]["content"][0] == {"type": "output_text", "text": text}


CHUNKS = [
    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
    *({"choices": [{"index": 0, "delta": {"content": f"w{n} "}}]} for n in range(4)),
    {"choices": [], "usage": {"completion_tokens": 4}},
]
STREAM = b"".join(event(chunk) for chunk in CHUNKS) + event(b"[DONE]")


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_a_stream_is_altered_alike_however_its_bytes_are_cut(cuts):
    altered = AlteredBody(stream=True)
    written = altered.feed(b"", "ahoy ")
    for start, end in itertools.pairwise([0, *sorted(cuts), len(STREAM)]):
        written += altered.feed(STREAM[start:end], "")
    events = [part.removeprefix(b"data: ") for part in written.split(b"\n\n")]
    assert events[-2:] == [b"[DONE]", b""]
    bodies = [json.loads(part) for part in events[:-2]]
    text = "".join(choice["delta"].get("content", "") for body in bodies for choice in body["choices"])
    assert text == "ahoy "
    assert bodies[-1] == CHUNKS[-1]


def test_responses_say_in_the_end_what_they_said_in_pieces():
    altered = AlteredBody(stream=True)
    kind = "response.output_text"
    events = [
        b"event: x\n" + event({"type": f"{kind}.delta", "delta": "w0 "}),
        event({"type": f"{kind}.delta", "delta": "w1"}),
        event({"type": f"{kind}.done", "text": "w0 w1"}),
        event({"type": "response.completed", "response": RESPONSES}),
    ]
    written = b"".join(altered.feed(data, text) for data, text in zip(events, ["ahoy ", "you", "", ""], strict=True))
    assert written.startswith(b"event: x\ndata: {")
    deltas, done, completed = [], None, None
    for part in written.split(b"\n\n")[:-1]:
        value = json.loads(part.split(b"data: ")[1])
        deltas += [value["delta"]] if "delta" in value else []
        done, completed = value.get("text", done), value.get("response", completed)
    assert ("".join(deltas), done, completed["output"][0]["content"][0]["text"]) == ("ahoy you",) * 3


def test_each_of_several_answers_says_all_of_it():
    altered = AlteredBody(stream=True)
    chunks = [{"choices": [{"index": index, "delta": {"content": "w"}}]} for index in (0, 1, 1, 0)]
    written = b"".join(altered.feed(event(c), text) for c, text in zip(chunks, ["a ", "b ", "c ", ""], strict=True))
    texts = {0: "", 1: ""}
    for part in written.split(b"\n\n")[:-1]:
        (choice,) = json.loads(part.removeprefix(b"data: "))["choices"]
        texts[choice["index"]] += choice["delta"]["content"]
    assert texts == {0: "a b c ", 1: "a b c "}


def test_what_is_no_text_of_the_answer_stays():
    kept = {
        "metadata": {"text": "mine"},
        "tools": [{"content": "x"}],
        "choices": [{"message": {"content": "w0", "tool_calls": [{"function": {"arguments": "{}"}, "text": "t"}]}}],
    }
    altered = whole(kept, "ahoy")
    assert altered["choices"][0]["message"] == {**kept["choices"][0]["message"], "content": "ahoy"}
    assert (altered["metadata"], altered["tools"]) == (kept["metadata"], kept["tools"])


@pytest.mark.parametrize("line", [b"data: [1]", b"data: no JSON", b": comment", b"data: 5", b"id: 7"])
def test_lines_that_are_no_objects_stay(line):
    assert AlteredBody(stream=True).feed(line + b"\n\n", "ahoy") == line + b"\n\n"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("depth", [100, 300, 900, 5_000])
def test_what_is_nested_too_deeply_to_be_altered_ends_no_answer(stream, depth):
    body = b'{"choices": [{"delta": {"content": "old"}}], "other": ' + b"[" * depth + b"]" * depth + b"}"
    data = b"data: " + body + b"\n\n" if stream else body
    assert AlteredBody(stream=stream).feed(data, "new") in {b"", data} or depth < 5_000
