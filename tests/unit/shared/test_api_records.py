"""What is read of the answers of a server of the OpenAI API, whatever such a server sends."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import Permanent, Transient
from shared.serving.api_records import AnswerReader, is_unknown_model
from shared.serving.openai_stream import ApiRequest

NAME = "bot.v7.bf16"


def reader(path="/v1/chat/completions", model="bot", salt=None, **body):
    raw = json.dumps({"model": "bot", "stream": True, **body}).encode()
    return AnswerReader(NAME, ApiRequest("POST", path, raw, 30.0, "r1", model, salt, fingerprint="fp_bot.v7"))


def chunk(*choices, **more):
    return b"data: " + json.dumps({"id": "c", "model": NAME, "choices": choices, **more}).encode()


def delta(text=None, *, index=0, reason=None, **more):
    return {"index": index, "delta": {} if text is None else {"content": text}, "finish_reason": reason, **more}


def test_a_request_goes_out_by_the_name_of_the_target_and_asks_for_the_counts_of_tokens():
    assert json.loads(reader(salt="caller-1").body) == {
        "model": NAME, "stream": True, "stream_options": {"include_usage": True}, "cache_salt": "caller-1",
    }  # fmt: skip
    assert json.loads(reader(stream=False, tools=[]).body) == {"model": NAME, "stream": False, "tools": []}
    assert "stream_options" not in json.loads(reader("/v1/responses").body)
    with pytest.raises(Permanent):
        AnswerReader(NAME, ApiRequest("POST", "/v1/completions", b"[1]", 30.0))


def test_tokens_are_counted_by_events_until_the_server_says_how_many():
    answer = reader()
    records = [
        answer.read_event(chunk(delta(""))).record,
        answer.read_event(chunk(delta("one"))).record,
        answer.read_event(chunk(delta(" two", reason="stop"))).record,
        answer.read_event(chunk(usage={"prompt_tokens": 9, "completion_tokens": 5})).record,
    ]
    assert [record["output_tokens"] for record in records] == [0, 1, 2, 5]
    assert records[2]["finish_reasons"] == {"0.0": "stop"}
    assert (records[3]["prompt_tokens"], answer.has_ended) == (9, True)


def test_counts_that_the_caller_did_not_ask_for_are_not_sent_to_it():
    usage = {"prompt_tokens": 1, "completion_tokens": 1}
    assert reader().read_event(chunk(usage=usage)).body == b""
    assert b"usage" not in reader().read_event(chunk(delta("a"), usage=None)).body
    wanted = reader(stream_options={"include_usage": True})
    assert json.loads(wanted.read_event(chunk(usage=usage)).body[6:])["usage"] == usage


def test_reasoning_and_calls_are_text_and_several_answers_have_their_names():
    answer = reader(n=2)
    thought = {"index": 0, "delta": {"reasoning_content": "hm"}}
    call = {"index": 1, "delta": {"tool_calls": [{"function": {"name": "look", "arguments": "{}"}}]}}
    record = answer.read_event(chunk(thought, call)).record
    assert record["texts"] == [["0.0", "hm"], ["0.1", "look{}"]]
    two = reader("/v1/completions", prompt=["a", "b"])
    record = two.read_event(chunk({"index": 1, "text": "x", "finish_reason": "length"})).record
    assert (record["texts"], record["finish_reasons"]) == ([["1.0", "x"]], {"1.0": "length"})


def test_the_events_of_responses_are_read_too():
    answer = reader("/v1/responses")
    for event in (
        {"type": "response.created", "response": {"model": NAME, "status": "in_progress"}},
        {"type": "response.output_text.delta", "delta": "one"},
    ):
        piece = answer.read_event(b"event: x\ndata: " + json.dumps(event).encode())
        assert piece.body.startswith(b"event: x\ndata: ")
    assert piece.record["texts"] == [["0.0", "one"]]
    usage = {"input_tokens": 3, "output_tokens": 4}
    ended = {"type": "response.completed", "response": {"model": NAME, "usage": usage, "error": None}}
    piece = answer.read_event(b"data: " + json.dumps(ended).encode())
    record = piece.record
    assert (record["prompt_tokens"], record["output_tokens"], record["finish_reasons"]) == (3, 4, {"0.0": "stop"})
    assert json.loads(piece.body[6:])["response"]["model"] == "bot"


def test_an_answer_of_plain_text_is_put_together_from_a_stream_and_timed():
    answer = reader(stream=False, n=2, max_tokens=5)
    assert json.loads(answer.body)["stream"] is True
    events = [
        chunk(delta("Hi", index=1), created=3),
        chunk({"index": 0, "delta": {"role": "assistant", "reasoning_content": "hm"}}),
        chunk(delta(" you", index=1, reason="length"), delta("So", reason="stop", stop_reason=7)),
        chunk(usage={"prompt_tokens": 9, "completion_tokens": 4}),
    ]
    pieces = [answer.read_event(event) for event in events]
    assert [(piece.status, piece.body, piece.record["output_tokens"]) for piece in pieces] == [
        (None, b"", 1), (None, b"", 2), (None, b"", 4), (None, b"", 4),
    ]  # fmt: skip
    whole = answer.read_event(b"data: [DONE]")
    assert (whole.status, dict(whole.headers)["content-type"]) == (200, "application/json")
    first = {"role": "assistant", "content": "So", "reasoning_content": "hm"}
    second = {"role": "assistant", "content": "Hi you"}
    assert json.loads(whole.body) == {
        "id": "c", "object": "chat.completion", "created": None, "model": "bot", "system_fingerprint": "fp_bot.v7",
        "choices": [
            {"index": 0, "message": first, "logprobs": None, "finish_reason": "stop", "stop_reason": 7},
            {"index": 1, "message": second, "logprobs": None, "finish_reason": "length"},
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 4},
    }  # fmt: skip


def test_a_failure_in_an_answer_that_is_put_together_is_an_error_of_the_whole():
    answer = reader(stream=False)
    answer.read_event(chunk(delta("Hi")))
    failed = answer.read_event(b'data: {"error": {"message": "no"}}')
    assert (failed.status, json.loads(failed.body)) == (500, {"error": {"message": "no"}})
    assert failed.record["error"] == {"class": "ErrorEvent", "source": "parser"}


@pytest.mark.parametrize("asked", [{"tools": []}, {"logprobs": True}, {"stream_options": {}}, {"prompt_logprobs": 0}])
def test_what_a_stream_has_in_another_form_is_asked_for_whole(asked):
    assert json.loads(reader(stream=False, **asked).body)["stream"] is False


def test_an_answer_by_another_name_is_another_models():
    with pytest.raises(Transient) as caught:
        reader().read_event(chunk(delta("a")).replace(NAME.encode(), b"gpt"))
    assert caught.value.code == "endpoint_unreachable"


@pytest.mark.parametrize(
    ("body", "unknown"),
    [
        ({"error": {"message": f"The model `{NAME}` does not exist.", "code": 404}}, True),
        ({"error": f'model "{NAME}" not found, try pulling it first'}, True),
        ({"error": {"message": "The model does not support Chat Completions API", "code": 404}}, False),
        ({"error": {"message": "The model `adapter-7` does not exist.", "param": "model"}}, False),
        ({"detail": "Not Found"}, False),
        ({"error": "not found"}, False),
        ([], False),
    ],
)
def test_whether_a_404_is_about_the_name_of_the_target(body, unknown):
    assert is_unknown_model(json.dumps(body).encode(), NAME) is unknown


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("code", "after_a_token", "source"),
    [(400, False, "validation"), (413, False, "validation"), (422, False, "validation"), (400, True, "parser"),
     (404, False, "parser"), (500, False, "parser"), ("400", False, "parser"), (None, False, "parser")],
)  # fmt: skip
def test_an_error_in_a_stream_is_the_callers_if_it_refuses_the_request_before_the_first_token(
    stream, code, after_a_token, source
):
    answer = reader(stream=stream)
    answer.read_event(chunk(delta("a" if after_a_token else "")))
    error = answer.read_event(b"data: " + json.dumps({"error": {"message": "no", "code": code}}).encode())
    assert error.record["error"] == {"class": "ErrorEvent", "source": source}
    if not stream:
        assert error.status == (code if source == "validation" else 500)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "delta", "index", "usage", "model", "type", "response", "logprobs", "tool_calls", "content"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON, st.booleans(), st.booleans())
def test_whatever_a_server_sends_is_a_record_or_another_model(value, stream, gathered):
    answer = reader(stream=not gathered)
    data = json.dumps(value).encode()
    try:
        piece = answer.read_event(b"data: " + data) if stream else answer.read_whole(200, data)
        whole = answer.read_event(b"data: [DONE]")
    except Transient:
        return
    assert isinstance(piece.record["output_tokens"], int)
    assert json.loads(whole.body)["object"] if gathered else whole.body.endswith(b"[DONE]\n\n")
