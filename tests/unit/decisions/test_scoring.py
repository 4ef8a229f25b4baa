"""Scorers of answers: what is right, what is wrong, and what cannot be parsed."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from contracts.evaluations import Scorer
from decisions.scorers import json_answers
from decisions.scorers.answers import Answer, Call
from decisions.scorers.languages import language_share
from decisions.scorers.reasoning import without_reasoning
from decisions.scorers.scoring import ABSENT, Asked, find_problem, score_answer

SCORERS = TypeAdapter(Scorer)
ORDER = {"order": 73, "items": [{"sku": "A-1", "quantity": 2}], "paid": True}
SCHEMA = {
    "type": "object",
    "required": ["order", "status"],
    "properties": {
        "order": {"type": "integer"},
        "status": {"enum": ["open", "refunded"]},
        "sku": {"pattern": "^[A-Z]-[0-9]+$"},
    },
    "additionalProperties": False,
}
RIGHT, WRONG, UNPARSED = 1.0, 0.0, None
GERMAN = "Ihr Paket ist am Montag angekommen und liegt beim Nachbarn."
ENGLISH = "Your parcel arrived on Monday and is with your neighbour."


def recognise(text):
    """Return the language of a text by a few words of it; lingua's place in unit tests."""
    words = set(text.lower().split())
    by_words = {"de": {"ist", "und", "das", "ich", "wo"}, "en": {"is", "and", "the", "your", "where"}}
    counts = {name: len(words & known) for name, known in by_words.items()}
    best = max(counts, key=counts.__getitem__)
    return best if counts[best] else None


def score(kind, answer, expected=ABSENT, *, last="", **settings):
    scorer = SCORERS.validate_python({"kind": kind, **settings})
    assert find_problem(scorer, expected) is None
    given_answer = answer if isinstance(answer, Answer) else Answer(answer)
    result = score_answer(scorer, Asked(expected, last), given_answer, recognise)
    assert (result.reason == "") == (result.value == 1.0), "a reason says why it is not 1"
    return result.value


def problem(kind, expected=ABSENT, **settings):
    return find_problem(SCORERS.validate_python({"kind": kind, **settings}), expected)


@pytest.mark.parametrize(
    ("answer", "expected", "settings", "value"),
    [
        ("Paris", "Paris", {}, RIGHT),
        (" Paris\n", "Paris", {}, RIGHT),
        ("paris", "Paris", {}, WRONG),
        ("PARIS", "Paris", {"ignore_case": True}, RIGHT),
        ("Paris.", "Paris", {}, WRONG),
        ("", "Paris", {}, WRONG),
        ("STRASSE", "Straße", {"ignore_case": True}, RIGHT),
        ('{"paid": true, "items": [{"quantity": 2, "sku": "A-1"}], "order": 73.0}', ORDER, {"compare": "json"}, RIGHT),
        ('{"paid": 1, "items": [{"quantity": 2, "sku": "A-1"}], "order": 73}', ORDER, {"compare": "json"}, WRONG),
        ('{"order": 73}', ORDER, {"compare": "json"}, WRONG),
        ('{"order": 73', ORDER, {"compare": "json"}, UNPARSED),
        ('Here it is: {"order": 73}', ORDER, {"compare": "json"}, UNPARSED),
        ("null", None, {"compare": "json"}, RIGHT),
        ("NaN", 1, {"compare": "json"}, UNPARSED),
        ('{"a": 1, "a": 2}', {"a": 2}, {"compare": "json"}, UNPARSED),
        ("[" * 100_000, [], {"compare": "json"}, UNPARSED),
        ("1" * 10_000, 1, {"compare": "json"}, UNPARSED),
    ],
)
def test_equals(answer, expected, settings, value):
    assert score("equals", answer, expected, **settings) == value


@pytest.mark.parametrize(
    ("answer", "expected", "settings", "value"),
    [
        ("The refund of 20 EUR is on its way.", "refund", {}, RIGHT),
        ("The Refund is on its way.", ["refund", "way"], {}, RIGHT),
        ("The Refund is on its way.", "refund", {"ignore_case": False}, WRONG),
        ("The refund is on its way.", ["refund", "20 EUR"], {}, WRONG),
        ("The refund is on its way.", ABSENT, {"excludes": ["guarantee"]}, RIGHT),
        ("We guarantee a refund.", "refund", {"excludes": ["GUARANTEE"]}, WRONG),
        ("退款已在处理中", "退款", {}, RIGHT),
        ("That is nice.", "ice", {}, WRONG),
        ("Nice ice, twice.", "ice", {}, RIGHT),
        ("Order 731.", "73", {}, WRONG),
        ("It's Paris's.", "Paris", {}, RIGHT),
        ("Education matters.", ABSENT, {"excludes": ["cat"]}, RIGHT),
    ],
)
def test_contains(answer, expected, settings, value):
    assert score("contains", answer, expected, **settings) == value


@pytest.mark.parametrize(
    ("answer", "expected", "settings", "value"),
    [
        ("Order 73", ABSENT, {"pattern": r"^Order \d+$"}, RIGHT),
        ("order 73", ABSENT, {"pattern": r"(?i)^Order \d+$"}, RIGHT),
        ("Your order 73 ships.", ABSENT, {"pattern": r"order \d+"}, RIGHT),
        ("Your order ships.", ABSENT, {"pattern": r"order \d+"}, WRONG),
        ("7", "^[0-9]$", {}, RIGHT),
        ("77", "^[0-9]$", {}, WRONG),
    ],
)
def test_regex(answer, expected, settings, value):
    assert score("regex", answer, expected, **settings) == value


@pytest.mark.parametrize("pattern", [r"(a+)+$", r"(x+x+)+y", r"(a|a)*$", r"(.*a){20}"])
def test_no_pattern_takes_long(pattern):
    began = time.thread_time()
    score("regex", "a" * 20_000 + "!", ABSENT, pattern=pattern)
    assert time.thread_time() - began < 3.0


@pytest.mark.parametrize(
    ("answer", "settings", "value"),
    [
        ('{"order": 73, "status": "open"}', {}, RIGHT),
        ('{"order": "73", "status": "open"}', {}, WRONG),
        ('{"order": 73, "state": "open"}', {}, WRONG),
        ('{"order": 73, "status": "open", "sku": "a-1"}', {}, WRONG),
        ('{"order": 73, "status": "open", "sku": "A-1"}', {}, RIGHT),
        ('{"order": 73, "status": "op', {}, UNPARSED),
        ('```json\n{"order": 73, "status": "open"}\n```', {}, UNPARSED),
        ('```json\n{"order": 73, "status": "open"}\n```', {"fenced": True}, RIGHT),
        ('{"order": 73, "status": "open"}', {"fenced": True}, RIGHT),
        ("Sure! Here is your order.", {}, UNPARSED),
        ("", {}, UNPARSED),
    ],
)
def test_json_schema(answer, settings, value):
    assert score("json_schema", answer, definition=SCHEMA, **settings) == value
    assert score("json_schema", answer, SCHEMA, **settings) == value


def test_a_schema_with_references_is_followed_within_limits():
    tree = {
        "$defs": {
            "node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, "additionalProperties": False}
        },
        "$ref": "#/$defs/node",
    }
    assert score("json_schema", '{"next": {"next": {}}}', definition=tree) == RIGHT
    assert score("json_schema", '{"next": {"other": {}}}', definition=tree) == WRONG
    deep = '{"next": ' * 5_000 + "{}" + "}" * 5_000
    assert score("json_schema", deep, definition=tree) == UNPARSED
    doubling = {
        "$defs": {
            "a": {
                "anyOf": [
                    {"items": {"$ref": "#/$defs/a"}, "minItems": 1},
                    {"items": {"$ref": "#/$defs/a"}, "minItems": 1},
                ]
            }
        },
        "$ref": "#/$defs/a",
    }
    began = time.thread_time()
    assert score("json_schema", "[" * 40 + "]" * 40, definition=doubling) == UNPARSED
    assert time.thread_time() - began < 30.0
    assert score("json_schema", "1", definition={"$ref": "#"}) == UNPARSED


def test_the_patterns_of_a_schema_are_linear_whatever_draft_it_names():
    slow = {"$schema": "http://json-schema.org/draft-07/schema#", "type": "string", "pattern": "^(a+)+$"}
    began = time.thread_time()
    assert score("json_schema", '"' + "a" * 5_000 + '!"', definition=slow) == WRONG
    assert time.thread_time() - began < 3.0


@pytest.mark.parametrize(
    "definition",
    [
        {"type": "objekt"},
        {"pattern": "(?=a)"},
        {"$ref": "https://example.org/schema.json"},
        {"$ref": "#/$defs/missing"},
        {"patternProperties": {"^a": {}}},
        {"properties": {"a": {"$schema": "http://json-schema.org/draft-07/schema#"}}},
    ],
)
def test_a_schema_that_cannot_be_used_is_named(definition):
    assert problem("json_schema", definition=definition).startswith("the scorer json_schema: ")
    assert problem("json_schema", definition) is not None


def test_a_schema_nested_without_end_is_named():
    nested = {}
    for _ in range(5_000):
        nested = {"not": nested}
    with pytest.raises(ValueError, match="nested"):
        json_answers.check_schema(nested)


def calling(name, arguments="{}", text=""):
    return Answer(text, (Call(name, arguments),))


REFUND = {"name": "refund", "arguments": {"order": 73, "reason": "damaged"}}


@pytest.mark.parametrize(
    ("answer", "expected", "arguments", "value"),
    [
        (calling("refund", '{"order": 73, "reason": "damaged"}'), REFUND, "equal", RIGHT),
        (calling("refund", '{"reason": "damaged", "order": 73.0}'), REFUND, "equal", RIGHT),
        (calling("refund", '{"order": 37, "reason": "damaged"}'), REFUND, "equal", WRONG),
        (calling("refund", '{"order": 73, "reason": "damaged", "note": ""}'), REFUND, "equal", WRONG),
        (calling("refund", '{"order": 73, "reason": "damaged", "note": ""}'), REFUND, "include", RIGHT),
        (calling("refund", '{"order": 37}'), REFUND, "any", RIGHT),
        (calling("cancel", '{"order": 73, "reason": "damaged"}'), REFUND, "equal", WRONG),
        (calling("refund", '{"order": 73, "reason": "dam'), REFUND, "equal", UNPARSED),
        (calling("refund", "73"), REFUND, "equal", UNPARSED),
        (calling("list_orders", ""), {"name": "list_orders"}, "equal", RIGHT),
        (Answer("I have refunded it."), REFUND, "equal", WRONG),
        (Answer('<tool_call>{"name": "refund", "arguments": {}}</tool_call>'), REFUND, "equal", UNPARSED),
        (Answer('{"name": "refund", "parameters": {"order": 73}}'), REFUND, "equal", UNPARSED),
        (Answer("Which order?"), None, "equal", RIGHT),
        (calling("refund"), None, "equal", WRONG),
        (Answer("", (Call("a", "{}"), Call("b", "{}"))), [{"name": "a"}, {"name": "b"}], "equal", RIGHT),
        (Answer("", (Call("b", "{}"), Call("a", "{}"))), [{"name": "a"}, {"name": "b"}], "equal", WRONG),
    ],
)
def test_tool_calls(answer, expected, arguments, value):
    assert score("tool_call", answer, expected, arguments=arguments) == value


@pytest.mark.parametrize(
    ("answer", "expected", "settings", "value"),
    [
        (GERMAN, ABSENT, {"language": "de"}, RIGHT),
        (ENGLISH, ABSENT, {"language": "de"}, WRONG),
        (GERMAN, "de", {}, RIGHT),
        (GERMAN, ABSENT, {"last": "Wo ist mein Paket und das Buch?"}, RIGHT),
        (ENGLISH, ABSENT, {"last": "Wo ist mein Paket und das Buch?"}, WRONG),
        (GERMAN, ABSENT, {"last": "?"}, UNPARSED),
        ("42", "de", {}, UNPARSED),
        ("Ja.", "de", {}, UNPARSED),
        ("", "de", {}, UNPARSED),
        (f"{GERMAN}\n```python\nthe_value = is_and_your(the)\n```", "de", {}, RIGHT),
    ],
)
def test_language(answer, expected, settings, value):
    assert score("language", answer, expected, **settings) == value


@pytest.mark.parametrize(("answer", "last", "is_evidence"), [("Ja.", "", False), (GERMAN, "?", False), ("", "", True)])
def test_a_language_that_cannot_be_told_is_no_evidence_but_an_empty_answer_is(answer, last, is_evidence):
    asked = Asked(ABSENT if last else "de", last)
    result = score_answer(SCORERS.validate_python({"kind": "language"}), asked, Answer(answer), recognise)
    assert (result.value, result.is_evidence) == (None, is_evidence)


def test_a_long_text_without_spaces_is_searched_for_addresses_in_linear_time():
    began = time.thread_time()
    language_share("a" * 200_000, "en", recognise)
    assert time.thread_time() - began < 5.0


@pytest.mark.parametrize(
    ("kind", "answer", "expected"),
    [
        ("contains", Answer("mine"), "SECRET"),
        ("json_schema", Answer('{"SECRET": "SECRET"}'), {"additionalProperties": {"enum": ["SECRETS"]}}),
        ("tool_call", calling("SECRET"), {"name": "SECRETS"}),
        ("tool_call", calling("SECRET", '{"SECRET": 1}'), {"name": "SECRET"}),
    ],
)
def test_no_reason_quotes_the_set_or_an_answer(kind, answer, expected):
    result = score_answer(SCORERS.validate_python({"kind": kind}), Asked(expected), answer, recognise)
    assert result.value == WRONG
    assert "SECRET" not in result.reason


def test_an_answer_that_changes_language_scores_the_share_that_did_not():
    mixed = f"{GERMAN} " * 4 + f"{ENGLISH} " * 4
    assert score("language", mixed, "de") == pytest.approx(0.5, abs=0.12)
    assert language_share("12 34 56", "de", recognise) is None
    assert language_share("这是一个关于包裹的回答。", "zh", lambda _: "zh") == 1.0
    assert language_share(GERMAN, "de", lambda _: None) is None


@pytest.mark.parametrize(
    ("answer", "settings", "value"),
    [
        ("Yes.", {}, RIGHT),
        ("", {}, WRONG),
        (" \n", {}, WRONG),
        ("Yes.", {"min_chars": 10}, WRONG),
        ("Yes.", {"max_chars": 3}, WRONG),
        ("Yes.", {"max_chars": 4}, RIGHT),
        (Answer("Yes, and then", is_cut=True), {}, WRONG),
        (calling("refund"), {}, RIGHT),
    ],
)
def test_length(answer, settings, value):
    assert score("length", answer, **settings) == value


@pytest.mark.parametrize(
    ("answer", "expected", "settings", "value"),
    [
        ("I'm sorry, but I can't help with that.", ABSENT, {}, WRONG),
        ("I'm sorry to hear that. I have refunded order 73.", ABSENT, {}, RIGHT),
        ("Sure, first you take", True, {}, WRONG),
        ("Dabei kann ich Ihnen nicht helfen.", True, {}, RIGHT),
        ("Dabei kann ich Ihnen nicht helfen.", ABSENT, {"refuses": True}, RIGHT),
        ("Sure.", False, {}, RIGHT),
        ("", ABSENT, {}, UNPARSED),
        (calling("refund"), ABSENT, {}, RIGHT),
    ],
)
def test_refusal(answer, expected, settings, value):
    assert score("refusal", answer, expected, **settings) == value


def test_repetition():
    assert score("repetition", "Your parcel is on its way.") == RIGHT
    assert score("repetition", "好的，我来帮您。" * 40) == WRONG
    assert score("repetition", "We are glad to help. " * 40, max_ratio=0.99) == RIGHT


@pytest.mark.parametrize(
    ("kind", "expected", "settings"),
    [
        ("equals", ABSENT, {}),
        ("equals", 3, {}),
        ("equals", ABSENT, {"compare": "json"}),
        ("contains", ABSENT, {}),
        ("contains", [], {}),
        ("contains", ["a", 1], {}),
        ("contains", "", {}),
        ("regex", ABSENT, {}),
        ("regex", "(", {}),
        ("json_schema", ABSENT, {}),
        ("json_schema", "text", {}),
        ("tool_call", ABSENT, {}),
        ("tool_call", "refund", {}),
        ("tool_call", {"name": 1}, {}),
        ("tool_call", {"name": "a", "arguments": "{}"}, {}),
        ("language", "german", {}),
        ("language", 1, {}),
        ("language", "sv", {}),
        ("language", ABSENT, {"language": "sv"}),
        ("refusal", "yes", {}),
    ],
)
def test_a_row_that_cannot_be_scored_is_named(kind, expected, settings):
    assert problem(kind, expected, **settings).startswith(f"the scorer {kind}: ")


def test_the_reasoning_is_no_part_of_the_answer():
    assert without_reasoning("<think>Hm.</think>\n42") == "42"
    assert without_reasoning("Hm.</think>42") == "42"
    assert without_reasoning("<think>Hm, let me see") == ""
    assert without_reasoning("[THINK]Hm.[/THINK]42") == "42"
    assert without_reasoning("<|channel|>analysis<|message|>Hm.<|end|>") == ""
    assert without_reasoning("42 is <b>it</b>") == "42 is <b>it</b>"


def test_an_answer_is_read_from_a_choice():
    message = {
        "content": "<think>a</think>Hi",
        "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}, {"function": None}, 3],
    }
    assert Answer.of_choice({"message": message, "finish_reason": "length"}) == Answer(
        "Hi", (Call("f", "{}"),), is_cut=True
    )
    assert Answer.of_choice({"message": {"content": None}, "finish_reason": "stop"}) == Answer("")
    with pytest.raises(ValueError, match="no message"):
        Answer.of_choice({})


@given(st.sampled_from(["equals", "contains", "refusal", "repetition", "length", "tool_call"]), st.text(max_size=200))
def test_every_answer_has_a_score(kind, text):
    value = score(kind, text, {"equals": "a", "contains": "a", "tool_call": None}.get(kind, ABSENT))
    assert value is None or 0.0 <= value <= 1.0


@pytest.mark.parametrize("levels", [10, 400, 900, 2_000])
def test_values_that_are_nested_deeply_have_a_score(levels):
    nested = []
    for _ in range(levels - 1):
        nested = [nested]
    scorer = SCORERS.validate_python({"kind": "equals", "compare": "json"})
    value = score_answer(scorer, Asked(nested), Answer("[" * levels + "]" * levels), recognise).value
    assert value in {RIGHT, UNPARSED}
    assert levels > 10 or value == RIGHT
