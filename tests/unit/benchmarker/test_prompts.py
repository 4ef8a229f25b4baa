"""Prompts: ours are varied, evaluation sets are read or refused with the line named."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.evaluations.text_sets import EVALUATION_RECORDS
from services.benchmarker.domain.prompts import (
    Message,
    Prompt,
    ask_once,
    choose_fitting,
    digest_prompts,
    parse_evaluation,
)
from services.benchmarker.prompts import PROMPTS


def lines(*values):
    return "\n".join(json.dumps(value) for value in values).encode()


def test_our_own_prompts_are_many_different_and_of_different_lengths():
    assert len(PROMPTS) == len(set(PROMPTS)) == 40
    assert min(prompt.chars for prompt in PROMPTS) < 40
    assert max(prompt.chars for prompt in PROMPTS) > 600
    assert sum(len(prompt.messages) > 1 for prompt in PROMPTS) >= 3
    assert all(prompt.messages[-1].role == "user" for prompt in PROMPTS)


def test_each_way_to_write_a_line_is_understood():
    data = lines(
        "plain text",
        {"text": "a passage"},
        {"prompt": "a question", "expected": "ignored"},
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]},
    )
    assert parse_evaluation(data) == (
        Prompt(text="plain text"),
        Prompt(text="a passage"),
        ask_once("a question"),
        Prompt(messages=(Message("system", "s"), Message("user", "u"))),
    )


def test_answers_at_the_end_of_a_conversation_are_what_the_model_is_to_say():
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    assert parse_evaluation(lines({"messages": turns})) == (ask_once("q"),)


def test_blank_lines_are_skipped_and_a_last_newline_is_not_needed():
    assert len(parse_evaluation(b'\n"one"\n\n  \n"two"')) == 2


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no line"),
        (b"\n \n", "no line"),
        (b'"fine"\n{broken', "line 2"),
        (b"42", "line 1: neither"),
        (b"null", "neither"),
        (b'""', "neither"),
        (b'{"text": "  "}', "neither"),
        (b'{"messages": []}', "neither"),
        (b'{"messages": ["hi"]}', "needs a role"),
        (b'{"messages": [{"role": "user"}]}', "the content of a message"),
        (b'{"messages": [{"role": "user", "content": [1]}]}', "the content of a message"),
        (b'{"messages": [{"role": "assistant", "content": "a"}]}', "all messages are from the assistant"),
        (b'"fine"\n\xff\xfe', "line 2: not UTF-8"),
        (b"[" * 100_000, "line 1"),
    ],
)
def test_what_is_no_evaluation_set_is_refused_and_the_line_named(data, why):
    with pytest.raises(ValueError, match=why):
        parse_evaluation(data)


@given(data=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_never_anything_else(data):
    try:
        prompts = parse_evaluation(data)
    except ValueError:
        return
    assert prompts


def test_a_huge_set_is_read_in_part():
    assert len(parse_evaluation(lines(*["x"] * (EVALUATION_RECORDS + 5)))) == EVALUATION_RECORDS


def test_prompts_that_might_not_fit_the_context_are_left_out():
    short, long = ask_once("x" * 100), Prompt(text="x" * 101)
    assert choose_fitting([short, long], context_tokens=60, output_tokens=10) == (short,)
    assert choose_fitting([short, long], context_tokens=5, output_tokens=10) == ()


@given(texts=st.lists(st.text(max_size=5), min_size=1, max_size=4))
def test_the_digest_tells_text_from_question_and_one_order_from_another(texts):
    as_text = [Prompt(text=text) for text in texts]
    as_question = [ask_once(text) for text in texts]
    assert digest_prompts(as_text) == digest_prompts(list(as_text))
    assert digest_prompts(as_text) != digest_prompts(as_question)
    if texts != texts[::-1]:
        assert digest_prompts(as_text) != digest_prompts(as_text[::-1])
