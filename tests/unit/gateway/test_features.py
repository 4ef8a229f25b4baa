"""What telemetry says about text."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.api.measurement import Piece, first_token_ms, inter_token
from services.gateway.domain import features
from services.gateway.domain.excerpts import Excerpts
from tests.unit.gateway.fake_describer import describe


def test_an_ordinary_answer():
    result = describe("How do I reset it?", "Press the button for 5 seconds.")
    assert (result.prompt_chars, result.output_chars) == (18, 31)
    assert (result.refusal, result.empty, result.repetition_ratio) == (False, False, 0.0)
    assert result.non_letter_ratio == pytest.approx(2 / 26)


def test_a_refusal_is_one_and_an_apology_is_none():
    assert describe("x", "I'm sorry, but I can't help.").refusal
    assert describe("x", "Dabei kann ich Ihnen leider nicht helfen.").refusal
    assert describe("x", "Lo siento, pero no puedo ayudarte con eso.").refusal
    assert describe("x", "抱歉，我无法提供这方面的帮助。").refusal
    assert not describe("x", "I'm sorry to hear that your parcel arrived damaged. I have refunded order 73.").refusal


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_nothing_is_empty(text):
    result = describe("x", text)
    assert (result.empty, result.non_letter_ratio, result.repetition_ratio) == (True, 0.0, 0.0)


def test_a_loop_repeats_also_at_the_end_of_a_long_answer():
    assert describe("x", "over and " * 100).repetition_ratio > 0.95
    assert describe("x", "".join(map(chr, range(0x4E00, 0x9E00))) * 2 + "over and " * 300).repetition_ratio > 0.95
    assert describe("x", "one two three four five six").repetition_ratio == 0.0
    assert describe("x", "我们会尽快处理您的订单。" * 40).repetition_ratio > 0.95
    assert describe("x", '[{"order": 73, "paid": true}' + ', {"order": 73, "paid": true}' * 40).repetition_ratio > 0.9


GERMAN = "Wie lange dauert die Lieferung nach Graz?"
IN_GERMAN = "Die Lieferung nach Graz dauert zwei Tage, wenn Sie heute noch bestellen."
IN_ENGLISH = "The delivery to Graz takes two days if you place your order before noon."


def recognise(text):
    """Return the language of a text by a few words of it; lingua's place in unit tests."""
    words = set(re.findall(r"\w+", text.lower()))
    return next((name for name, some in (("de", {"die", "wie"}), ("en", {"the", "what"})) if words & some), None)


def language_of(asked, answer, form=""):
    texts = Excerpts.of(asked, answer, form=form, delivered=chat(answer) if form else b"")
    return features.describe(texts, recognise).features.language_ratio


def chat(text, **message):
    whole = {"choices": [{"index": 0, "message": {"content": text, **message}, "finish_reason": "stop"}]}
    return json.dumps(whole).encode()


@pytest.mark.parametrize(
    ("asked", "answer", "ratio"),
    [
        (GERMAN, IN_GERMAN, 1.0),
        (GERMAN, IN_ENGLISH, 0.0),
        (GERMAN, f"<think>{IN_ENGLISH}</think>{IN_GERMAN}", 1.0),
        (GERMAN, f"{IN_GERMAN}\n```\nthe = what\n```", 1.0),
        (GERMAN, "Graz", None),
        (GERMAN, "", None),
        (GERMAN, '{"answer": "The delivery to Graz takes two days if you order today."}', None),
        ("Graz?", IN_ENGLISH, None),
        ("12345 67890 12345 67890 12345", IN_ENGLISH, None),
        ("", IN_ENGLISH, None),
        (f"What does this say? {IN_ENGLISH * 9} {IN_GERMAN * 9}", IN_ENGLISH, None),  # a question about a text
    ],
)
def test_the_language_of_an_answer_is_compared_with_that_of_the_users_text(asked, answer, ratio):
    assert language_of(asked, answer) == ratio


SCHEMA = {"type": "object", "properties": {"order": {"type": "integer"}}, "required": ["order"]}
AS_SCHEMA = {"response_format": {"type": "json_schema", "json_schema": {"name": "order", "schema": SCHEMA}}}
AS_OBJECT = {"response_format": {"type": "json_object"}}
AS_RESPONSE = {"text": {"format": {"type": "json_schema", "name": "order", "schema": SCHEMA}}}
AS_STRUCTURE = {"structured_outputs": {"json": SCHEMA}}
AS_TOOL = {"tools": [{"type": "function", "function": {"name": "refund", "parameters": SCHEMA}}]}
AS_TOOL_OF_RESPONSES = {"tools": [{"type": "function", "name": "refund", "parameters": SCHEMA}]}


def called(arguments, name="refund"):
    return [{"id": "c-1", "type": "function", "function": {"name": name, "arguments": arguments}}]


def valid(form, delivered):
    texts = Excerpts.of("x", "y", form=json.dumps(form), delivered=delivered)
    return features.describe(texts, recognise).features.valid_json


@pytest.mark.parametrize("form", [AS_SCHEMA, AS_RESPONSE, AS_STRUCTURE])
@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ('{"order": 73}', True),
        ('<think>{"order"</think>{"order": 73}', True),
        ('{"order": "73"}', False),
        ('{"order": 73', False),
        ('```json\n{"order": 73}\n```', False),
        ("", False),
        ("I'm sorry, but I can't help.", False),
    ],
)
def test_an_answer_is_judged_by_the_schema_of_its_request(form, text, seen):
    assert valid(form, chat(text)) is seen


@pytest.mark.parametrize(
    ("form", "text", "seen"),
    [
        (AS_OBJECT, '{"any": 1}', True),
        (AS_OBJECT, "[1]", False),
        ({"response_format": {"type": "text"}}, "any", None),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, "yes", None),
        # what cannot be checked within limits asks for JSON only
        ({"structured_outputs": {"json": {"patternProperties": {"a": {"type": "integer"}}}}}, '{"a": "b"}', True),
        ({"structured_outputs": {"json": {"patternProperties": {"a": {"type": "integer"}}}}}, "no JSON", False),
        (AS_SCHEMA | AS_TOOL, '{"order": 73}', True),
        (AS_SCHEMA | AS_TOOL, "no JSON", False),
        ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, '{"order": "73"}', False),
        # a schema that is not valid asks for JSON only, although some answer violates it
        ({"structured_outputs": {"json": SCHEMA | {"required": "order"}}}, '{"order": 73}', True),
        ({"structured_outputs": {"json": {"type": "number or text"}}}, '{"order": 73}', True),
        ({"structured_outputs": {"json": {"$ref": "https://example.org/schema.json"}}}, '{"order": 73}', True),
    ],
)
def test_what_a_request_may_ask(form, text, seen):
    assert valid(form, chat(text)) is seen


@pytest.mark.parametrize("form", [AS_TOOL, AS_TOOL_OF_RESPONSES, AS_TOOL | AS_SCHEMA])
@pytest.mark.parametrize(
    ("calls", "seen"),
    [
        (called('{"order": 73}'), True),
        (called('{"order": 73}') * 2, True),
        (called('{"order": 7'), False),
        (called("[73]"), False),
        (called('{"order": "73"}'), False),
        (called('{"order": 73}', "delete"), False),
        (called('{"order": 73}') + called("no JSON"), False),
    ],
)
def test_calls_are_judged_by_the_tools_of_their_request(form, calls, seen):
    assert valid(form, chat(None, tool_calls=calls)) is seen


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("Order 73 is refunded.", True),
        ('<tool_call>\n{"name": "refund", "arguments": {"order": 73}}\n</tool_call>', False),
        ('{"name": "refund", "arguments": {"order": 73}}', False),
    ],
)
def test_a_call_that_the_engine_did_not_recognise_is_none(text, seen):
    assert valid(AS_TOOL, chat(text)) is seen


def test_streams_are_judged_as_whole_answers_are():
    def stream(*deltas):
        events = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
        other = {"choices": [{"index": 1, "delta": {"content": "another answer"}}]}
        lines = [f"data: {json.dumps(event)}\n\n" for event in (*events, other, {"choices": [], "usage": {}})]
        return "".join([*lines, "data: [DONE]\n\n"]).encode()

    def part(index, name=None, arguments=None):
        return {"tool_calls": [{"index": index, "function": {"name": name, "arguments": arguments}}]}

    assert valid(AS_SCHEMA, stream({"role": "assistant", "content": ""}, {"content": '{"order":'}, {"content": " 73}"}))
    assert not valid(AS_SCHEMA, stream({"content": '{"order":'}, {"content": " no}"}))
    first, second = [part(0, "refund", ""), part(0, None, '{"order": ')], [part(0, None, "73}"), part(1, "refund", "{")]
    assert valid(AS_TOOL, stream(*first, second[0]))
    assert not valid(AS_TOOL, stream(*first, *second))


def test_responses_are_judged_by_their_items():
    def response(*items, status="completed"):
        return {"object": "response", "status": status, "output": [{"type": "reasoning", "content": []}, *items]}

    text = {"type": "message", "content": [{"type": "output_text", "text": '{"order": 73}'}]}
    call = {"type": "function_call", "name": "refund", "arguments": '{"order": 73}', "call_id": "c-1"}
    events = [{"type": "response.created", "response": response(status="in_progress")}]
    events += [{"type": "response.output_text.delta", "delta": "{"}]
    events += [{"type": "response.completed", "response": response(text)}]
    stream = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events).encode()
    assert valid(AS_RESPONSE, stream)
    assert valid(AS_RESPONSE, json.dumps(response(text)).encode())
    assert valid(AS_TOOL_OF_RESPONSES, json.dumps(response(call)).encode())
    assert not valid(AS_TOOL_OF_RESPONSES, json.dumps(response(call | {"arguments": "{"})).encode())


@pytest.mark.parametrize("body", [b"", b"no JSON", b"{}", b"[1]", b'{"choices": [5]}', b'data: {"choices": 5}\n\n'])
def test_bytes_that_are_no_answer_tell_nothing(body):
    assert valid(AS_SCHEMA, body) is None


@given(st.text(max_size=500), st.text(max_size=500))
def test_every_text_has_features_within_their_bounds(prompt, output):
    result = describe(prompt, output)
    assert 0.0 <= result.non_letter_ratio <= 1.0
    assert 0.0 <= result.repetition_ratio <= 1.0


@given(st.text(alphabet="abcdefghij ", min_size=30, max_size=200))
def test_no_text_is_kept(output):
    assert output.strip() not in describe(output, output).model_dump_json() or not output.strip()


def test_first_token_skips_pieces_without_text():
    assert first_token_ms([Piece(0.1, 1, False), Piece(0.25, 1, True)]) == 250.0
    assert first_token_ms([Piece(0.1, 1, False)]) is None


def test_inter_token_latency_is_last_minus_first_over_tokens_minus_one():
    result = inter_token([Piece(1.0, 1, True), Piece(1.1, 1, True), Piece(1.4, 2, True)])
    assert result.mean == pytest.approx(400 / 3)
    assert result.max == pytest.approx(150.0)
    assert result.p95 == pytest.approx(150.0)


def test_the_time_of_a_first_piece_of_several_tokens_is_not_shared_by_them():
    result = inter_token([Piece(1.0, 5, True), Piece(1.5, 5, True)])
    assert (result.mean, result.max) == (pytest.approx(100.0), pytest.approx(100.0))


@pytest.mark.parametrize("arrivals", [[], [Piece(1.0, 1, True)], [Piece(1.0, 3, True)], [Piece(1, 0, False)] * 3])
def test_no_inter_token_latency_without_two_pieces(arrivals):
    assert inter_token(arrivals) is None
