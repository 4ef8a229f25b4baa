"""Which requests of the OpenAI API reach an engine: paths, fields, and what one may cost."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decisions.openai.fields import ALLOWED_FIELDS, FOR_THE_CALLER, REFUSED_FIELDS, WITHOUT_EFFECT
from decisions.openai.limits import CostLimits
from decisions.openai.paths import PATHS, REFUSED_PATHS
from decisions.openai.requests import check_body, check_path

CONTEXT = 2_048
LIMITS = CostLimits()
EMBEDDINGS = "/v1/embeddings"
CHAT = "/v1/chat/completions"
COMPLETION = "/v1/completions"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=20,
)


def refused(path, **body):
    refusal = check_body(path, body, CONTEXT, LIMITS)
    assert refusal is not None, body
    return refusal


def accepted(path, **body):
    assert check_body(path, body, CONTEXT, LIMITS) is None


@pytest.mark.parametrize(
    "path", [*REFUSED_PATHS, "/", "", "/v1/chat/completions/", "//v1/completions", "/V1/completions"]
)
def test_other_paths_do_not_exist_whatever_the_method(path):
    for method in ("GET", "POST", "DELETE"):
        assert check_path(method, path).status == 404


@pytest.mark.parametrize("path", PATHS)
def test_a_path_takes_post_only(path):
    assert check_path("POST", path) is None
    assert check_path("GET", path).status == 405
    assert path not in REFUSED_PATHS


@pytest.mark.parametrize("name", REFUSED_FIELDS)
def test_a_refused_field_is_named_with_its_reason_and_may_be_empty(name):
    for path, kind in PATHS.items():
        if name in ALLOWED_FIELDS[kind]:
            continue
        refusal = refused(path, **{name: 1})
        assert (refusal.status, refusal.field, refusal.code) == (400, name, "unsupported_parameter")
        assert REFUSED_FIELDS[name] in refusal.message
        accepted(path, **{name: None})
        accepted(path, **{name: False})


def test_an_unknown_field_is_refused_and_a_long_name_is_cut():
    assert refused(CHAT, nonsense=1).code == "unknown_parameter"
    assert len(refused(CHAT, **{"x" * 10_000: 1}).message) < 200


def test_fields_without_effect_are_accepted_with_the_value_that_asks_for_nothing():
    accepted(CHAT, service_tier="auto", functions=[], metadata={"a": "b"}, store=False)
    assert refused(CHAT, best_of=True).field == "best_of", "true is not 1"
    assert refused(CHAT, service_tier="flex").field == "service_tier"


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (CHAT, {"n": 33, "max_tokens": 1}, "n"),
        (CHAT, {"n": 16_384}, "n"),
        (CHAT, {"n": 32}, None),
        (CHAT, {"n": 32, "max_tokens": 100}, None),
        (COMPLETION, {"prompt": ["a"] * 33}, "n"),
        (COMPLETION, {"prompt": ["a"] * 8, "n": 5}, "n"),
        (COMPLETION, {"prompt": [[1, 2]] * 33}, "n"),
        (COMPLETION, {"prompt": [1] * 2_000}, None),
        (COMPLETION, {"prompt": ["a"] * 32, "max_tokens": 2_048}, None),
        (COMPLETION, {"prompt": "a", "n": -5}, None),
        (CHAT, {"n": "16384"}, "n"),
        (CHAT, {"n": 16_384.0}, "n"),
        (CHAT, {"n": True}, "n"),
        (CHAT, {"max_tokens": 1, "max_completion_tokens": 4_096.0}, "max_completion_tokens"),
        (COMPLETION, {"prompt_logprobs": "5"}, "prompt_logprobs"),
        (COMPLETION, {"logprobs": 20.0}, "logprobs"),
        (COMPLETION, {"logprobs": 20, "echo": True}, "logprobs"),
        (CHAT, {"top_k": 2**64}, "top_k"),
        (CHAT, {"repetition_detection": {"min_count": 2**70}}, "repetition_detection"),
        (CHAT, {"messages": [{"role": "user", "content": "\ud800"}]}, "messages"),
        ("/detokenize", {"tokens": [2**32]}, "tokens"),
        (CHAT, {"use_beam_search": True}, "use_beam_search"),
        (CHAT, {"tools": [{"type": "mcp"}]}, "tools"),
        (CHAT, {"metadata": {f"k{number}": "" for number in range(17)}}, "metadata"),
        (CHAT, {"metadata": {f"k{number}": "" for number in range(16)}}, None),
        (COMPLETION, {"metadata": {"a": [1, 2]}}, "metadata"),
        (CHAT, {"metadata": []}, "metadata"),
        (CHAT, {"metadata": None}, None),
        (CHAT, {"structured_outputs": {"regex": "a"}}, "structured_outputs"),
        (CHAT, {"structured_outputs": {"json": "{}"}}, "structured_outputs"),
        (CHAT, {"structured_outputs": {"json": {"type": "object"}}}, None),
        (CHAT, {"response_format": {"type": "structural_tag"}}, "response_format"),
        (CHAT, {"messages": [{"content": [{"type": ["text"]}]}]}, "messages"),
        ("/v1/responses", {"text": {"format": {"type": "json_schema"}}}, None),
        ("/v1/responses", {"input": [{"output": [{"type": "input_image"}]}]}, "input"),
        (COMPLETION, {"logprobs": 21}, "logprobs"),
        (COMPLETION, {"logprobs": -1}, "logprobs"),
        (COMPLETION, {"prompt_logprobs": 6}, "prompt_logprobs"),
        (CHAT, {"prompt_logprobs": -1}, "prompt_logprobs"),
        (CHAT, {"logprobs": True, "top_logprobs": 20}, None),
        (CHAT, {"top_logprobs": 21}, "top_logprobs"),
        (CHAT, {"logit_bias": {str(number): 1 for number in range(1_025)}}, "logit_bias"),
        (CHAT, {"stop": ["a"] * 1_025}, "stop"),
        (CHAT, {"structured_outputs": {"choice": ["a" * 300_000]}}, "structured_outputs"),
        ("/v1/responses", {"include": ["message.output_text.logprobs"]}, None),
        ("/v1/responses", {"include": ["reasoning.encrypted_content"]}, "include"),
        ("/v1/responses", {"include": [["a"]]}, "include"),
        ("/v1/responses", {"service_tier": "auto", "max_tool_calls": 3}, None),
        ("/v1/responses", {"service_tier": "flex"}, "service_tier"),
        (EMBEDDINGS, {"input": ["a" * 1_000] * 512}, None),
        (EMBEDDINGS, {"input": ["a"] * 2_049}, "input"),
        (EMBEDDINGS, {"input": ["a" * 2_000] * 512}, "input"),
        (EMBEDDINGS, {"input": [1] * 2_048}, None),
        (EMBEDDINGS, {"input": [[1] * 2_048] * 147}, "input"),
        (EMBEDDINGS, {"input": "a" * 10_000_000}, None),  # the engine refuses what is longer than its context
        ("/tokenize", {"prompt": "a" * 500_000}, None),
        ("/tokenize", {"prompt": "a" * 700_000}, "prompt"),
        ("/tokenize", {"messages": [{"role": "user", "content": "a" * 700_000}]}, "messages"),
        ("/detokenize", {"tokens": [1] * 300_000}, None),
        ("/detokenize", {"tokens": [1] * 300_001}, "tokens"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}, None),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
        ("/v1/responses", {"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input"),
    ],
)
def test_what_a_request_may_cost(path, body, field):
    refusal = check_body(path, body, CONTEXT, LIMITS)
    assert (refusal and refusal.field) == field


def test_two_answers_may_fill_a_long_context_but_not_thirty():
    assert check_body(CHAT, {"n": 2}, 131_072, LIMITS) is None
    assert check_body(CHAT, {"n": 4}, 131_072, LIMITS) is None
    refusal = check_body(CHAT, {"n": 5}, 131_072, LIMITS)
    assert "655360 tokens in 5 answers; the limit is 524288" in refusal.message


def test_a_large_set_of_tools_is_accepted():
    """As deep and long as the tools of a whole API: 90 of 2 kB, with lists of objects in lists of objects."""
    parameters = {"type": "string", "description": "a" * 1_500}
    for _ in range(8):
        parameters = {"type": "array", "items": {"type": "object", "properties": {"a": parameters}}}
    tool = {
        "type": "function",
        "function": {"name": "a", "parameters": {"type": "object", "properties": {"a": parameters}}},
    }
    accepted(CHAT, tools=[tool] * 90)


def test_many_answers_may_not_be_long_together():
    refusal = check_body(CHAT, {"n": 32, "max_tokens": 4_096}, 8_192, LIMITS)
    assert refusal.field == "n"
    assert "131072 tokens in 32 answers" in refusal.message


def test_a_deep_schema_is_refused_without_recursion():
    schema = {}
    for _ in range(50_000):
        schema = {"items": schema}
    body = {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}
    assert refused(CHAT, **body).field == "response_format"
    nested = {}
    for _ in range(65):
        nested = {"a": nested}
    assert "nested" in refused(CHAT, tools=[nested]).message


@given(
    st.sampled_from(sorted(PATHS)),
    st.dictionaries(
        st.text(max_size=12)
        | st.sampled_from(sorted({*REFUSED_FIELDS, *WITHOUT_EFFECT, *FOR_THE_CALLER, *ALLOWED_FIELDS["chat"]})),
        VALUES,
        max_size=6,
    ),
)
def test_every_body_is_judged_and_what_passes_has_allowed_fields_or_such_without_effect(path, body):
    refusal = check_body(path, body, CONTEXT, LIMITS)
    if refusal is not None:
        assert refusal.status == 400
        assert refusal.message
        assert len(refusal.message) < 400
    else:
        for name in set(body) - ALLOWED_FIELDS[PATHS[path]]:
            value = body[name]
            assert value in (None, False) or name in FOR_THE_CALLER or value in WITHOUT_EFFECT[name], json.dumps(body)


ITEM = {"role": "user", "content": "Hi"}
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "c", "output": "1"}
RESPONSES = "/v1/responses"


def test_the_items_of_a_conversation_with_tools_are_accepted():
    parts = {**ITEM, "type": "message", "content": [{"type": "input_text", "text": "Hi"}], "id": "m", "status": None}
    answer = {"role": "assistant", "type": "message", "status": "completed", "id": "m"}
    answer["content"] = [{"type": "output_text", "text": "Hi", "annotations": []}]
    reasoning = {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": "a"}]}
    accepted(RESPONSES, input=[ITEM, parts, reasoning, CALL, OUTPUT, {**OUTPUT, "output": []}, answer])
    accepted(RESPONSES, input="Hi")
    accepted(RESPONSES, input=[])


@pytest.mark.parametrize(
    "item",
    [
        5,
        "a",
        [],
        {},
        {"x": 1},
        {"content": "Hi"},
        {"role": "user"},
        {"role": "root", "content": "Hi"},
        {"role": ["user"], "content": "Hi"},
        {"role": "user", "content": 5},
        {"role": "user", "content": {"text": "Hi"}},
        {**ITEM, "type": 5},
        {**ITEM, "id": 5},
        {**ITEM, "status": "done"},
        {**CALL, "name": None},
        {**CALL, "arguments": {}},
        {"type": "function_call_output", "call_id": "c"},
        {"type": "item_reference", "id": "a"},
        {"type": "mcp_call", "id": "a"},
    ],
)
def test_an_item_of_the_responses_api_that_no_engine_reads_is_refused(item):
    """The engine would try it against all forms and report how it misses each: 64 of them took more than a second."""
    assert refused(RESPONSES, input=[ITEM, item]).field == "input"


@given(VALUES)
def test_any_items_are_judged(value):
    check_body(RESPONSES, {"input": [value]}, CONTEXT, LIMITS)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": [ITEM] * 2_049}),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 2_048}]}),
        (RESPONSES, {"input": [ITEM] * 2_049}),
        (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}] * 2_048}]}),
        ("/tokenize", {"messages": [ITEM] * 2_049}),
    ],
)
def test_more_messages_and_parts_than_an_engine_validates_soon_are_refused(path, body):
    refusal = refused(path, **body)
    assert refusal.code == "above_maximum_value"
    assert "2049" in refusal.message
    ((name, items),) = body.items()
    accepted(path, **{name: items[:-1] if len(items) > 1 else [{**items[0], "content": items[0]["content"][:-1]}]})


@pytest.mark.parametrize("name", ["tools", "messages", "conversation", "padding", "tokenizer_kwargs", "bos_token"])
@pytest.mark.parametrize("path", [CHAT, RESPONSES, "/tokenize"])
def test_no_variable_replaces_what_the_engine_gives_the_template(path, name):
    refusal = refused(path, chat_template_kwargs={"enable_thinking": True, name: None})
    assert (refusal.field, refusal.code) == ("chat_template_kwargs", "unsupported_parameter")
    assert name in refusal.message
    accepted(path, chat_template_kwargs={"enable_thinking": True, "reasoning_effort": "low"})
    accepted(path, chat_template_kwargs=None)
