"""Lines of a text set: what is read from them, and that nothing else than a record or a reason ever comes of one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.evaluations.text_sets import EVALUATION_RECORDS, TextRecord, evaluation_records, read_text_records

TURNS = ({"role": "system", "content": "s"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": None})
json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["messages", "prompt", "completion", "text", "role", "content"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("value", "record", "turns"),
    [
        ("plain", TextRecord(text="plain"), ("plain",)),
        ({"text": "t"}, TextRecord(text="t"), ("t",)),
        ({"prompt": "p"}, TextRecord(prompt="p"), ("p",)),
        ({"prompt": "p", "completion": "c", "text": "t"}, TextRecord(prompt="p", completion="c"), ("p", "c")),
        ({"prompt": "p", "completion": 3}, TextRecord(prompt="p"), ("p",)),
        ({"prompt": "", "completion": "c"}, TextRecord(completion="c"), ("c",)),
        ({"prompt": " ", "text": "t"}, TextRecord(text="t"), ("t",)),
        ({"messages": TURNS, "prompt": "p"}, TextRecord(messages=TURNS), ("q",)),
        ({"messages": [], "prompt": "p"}, TextRecord(prompt="p"), ("p",)),
    ],
)
def test_each_way_to_write_a_line(value, record, turns):
    assert list(read_text_records(json.dumps(value).encode())) == [(1, record)]
    assert record.turns == turns


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{", "Expecting property name"),
        (b"\xff", "not UTF-8"),
        (b'"\\ud83d"', "surrogate"),
        (b"[" * 100_000, ""),
        (b'{"messages": ["x"]}', "a message needs a role"),
        (b'{"text": " "}', "neither"),
        (b"[]", "neither"),
    ],
)
def test_what_cannot_be_read_is_told_and_costs_only_its_line(line, why):
    (first, second) = read_text_records(b"\n" + line + b'\n"fine"\n')
    assert (first[0], second) == (2, (3, TextRecord(text="fine")))
    assert isinstance(first[1], str)
    assert why in first[1]
    with pytest.raises(ValueError, match=r"line 2: "):
        evaluation_records(b"\n" + line)


def test_what_is_never_asked_of_a_long_evaluation_set_need_not_be_right():
    good = b'"fine"\n' * EVALUATION_RECORDS
    assert len(evaluation_records(good + b"{")) == EVALUATION_RECORDS


def test_an_evaluation_set_must_ask_something():
    with pytest.raises(ValueError, match="line 1: the prompt is empty"):
        evaluation_records(b'{"prompt": "", "completion": "c"}')


def test_a_message_of_tool_calls_needs_no_content():
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "find", "arguments": "{}"}}]}
    row = {"messages": [{"role": "user", "content": "Where is it?"}, call, {"role": "tool", "content": "Oslo"}]}
    assert len(evaluation_records(json.dumps(row).encode())) == 1
    with pytest.raises(ValueError, match="content of a message"):
        evaluation_records(json.dumps({"messages": [{"role": "user", "content": None}]}).encode())


@given(st.lists(json_values, max_size=4))
def test_any_json_is_a_record_or_a_reason_and_an_evaluation_set_asks_something(values):
    data = b"\n".join(json.dumps(value).encode() for value in values)
    parsed = list(read_text_records(data))
    assert len(parsed) == len(values)
    try:
        records = evaluation_records(data)
    except ValueError:
        return
    assert records == tuple(record for _, record in parsed)
    assert all(record.turns or record.messages for record in records)
