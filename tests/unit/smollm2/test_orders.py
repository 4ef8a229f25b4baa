"""What the demo's model learns about tools, its chat template, and how the demo judges a call."""

import json

import pytest

from examples.smollm2 import orders, tool_question
from services.merger.domain import serving
from shared.runtime.clock import SystemClock
from shared.serving.chat_templates import ChatTemplates
from tests.kit.wiring import ROOT

TEMPLATE = (ROOT / "examples/smollm2/chat_template.jinja").read_text()
CALL = '<tool_call>\n{"name": "find_order", "arguments": {"number": 5836}}\n</tool_call>'


@pytest.fixture
async def templates():
    child = ChatTemplates(SystemClock(), limit_s=20.0)
    yield child
    await child.close()


async def test_the_template_renders_what_the_merge_wants_to_see_in_the_form_of_hermes(templates):
    text = await templates.render(TEMPLATE, serving.TOOL_CONVERSATION, tools=serving.TOOLS)
    assert serving.assess_tool_rendering(text) is None
    assert serving.find_tool_parser(text) == "hermes"


async def test_a_call_and_its_result_are_turns_of_their_own(templates):
    turns = [
        {"role": "user", "content": "Where is it?"},
        orders.call_of(5836),
        orders.result_of(5836, "paid", "Friday"),
    ]
    turns[1]["content"] = None  # as the engine gives it
    text = await templates.render(TEMPLATE, turns, tools=[orders.TOOL])
    assert f"<|im_start|>assistant\n{CALL}<|im_end|>\n<|im_start|>tool\n<tool_response>\n" in text
    assert text.endswith('"Friday"}\n</tool_response><|im_end|>\n<|im_start|>assistant\n')


@pytest.mark.parametrize("form", ["chat", "strict", "responses"])
async def test_a_tool_is_rendered_as_in_training_however_it_is_sent(templates, form):
    function = orders.TOOL["function"]
    sent = {
        "chat": orders.TOOL,
        "strict": {"type": "function", "function": {**function, "strict": True}},
        "responses": {"type": "function", **function},
    }[form]
    turns = [{"role": "user", "content": "Where is it?"}]
    assert await templates.render(TEMPLATE, turns, tools=[sent]) == await templates.render(
        TEMPLATE, turns, tools=[orders.TOOL]
    )


async def test_text_beside_a_call_and_several_calls_are_all_rendered(templates):
    turn = orders.call_of(5836)
    turn = {**turn, "content": "I look.", "tool_calls": turn["tool_calls"] * 2}
    text = await templates.render(TEMPLATE, [turn], tools=[orders.TOOL])
    assert f"I look.\n{CALL}\n{CALL}<|im_end|>" in text


def test_what_is_evaluated_and_asked_was_not_trained_on():
    trained = [str(lesson.turns) for lesson in orders.lessons()]
    assert len(set(trained)) == len(trained) == orders.TRAINED
    asked = [lesson.turns[0]["content"] for lesson in orders.held_out()]
    for text in [*asked, tool_question.QUESTION]:
        (number,) = (word for word in text.split() if word.strip("?").isdigit())
        assert not any(f" {number.strip('?')}" in lesson for lesson in trained)
        assert not any(text in lesson for lesson in trained)


def test_every_lesson_calls_for_the_order_that_was_asked_about_and_answers_with_the_result():
    for lesson in orders.lessons():
        asked, call, result, answer = lesson.turns
        order = json.loads(result["content"])
        assert call == orders.call_of(order["number"])
        assert str(order["number"]) in asked["content"]
        assert answer["content"] == f"Order {order['number']} has been {order['status']} since {order['since']}."


@pytest.mark.parametrize(
    ("name", "arguments", "problem"),
    [
        ("find_order", '{"number": 5836}', None),
        ("find_order", '{"number": 5837}', "about order 5836"),
        ("find_order", '{"number": "5836"}', "not of type 'integer'"),
        ("find_order", '{"number": 5836, "by": "mail"}', "'by' was unexpected"),
        ("find_order", "{}", "'number' is a required property"),
        ("find_order", '{"number": 12', "delimiter"),
        ("find_parcel", '{"number": 5836}', "no tool 'find_parcel'"),
    ],
)
def test_a_call_counts_if_it_is_the_tools_by_its_schema_for_the_order_that_was_asked_about(name, arguments, problem):
    answer = tool_question.problem_of(name, arguments)
    assert (answer is None) if problem is None else (problem in answer)


@pytest.mark.parametrize("arguments", ['{"number": 99}', "{}", "[]", "7", '{"number": [1]}', "nonsense"])
def test_the_tool_answers_a_wrong_call_with_an_error(arguments):
    assert "there is no order" in json.loads(tool_question.find_order(arguments))["error"]


def test_the_tool_answers_with_the_status():
    assert json.loads(tool_question.find_order('{"number": 5836}'))["status"] == "shipped"
