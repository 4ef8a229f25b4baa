"""Calibration sets as checkpoints bring them: good lines are used, bad ones counted, held-out text left out."""

import json

import jinja2
import pytest

from services.quantiser.adapters.calibration_set import calibration_windows, read_records, render
from services.quantiser.adapters.packaged_text import packaged_split
from services.quantiser.domain import CalibrationPlan
from shared.errors import Permanent


class ByteTokenizer:
    """One token a byte; a chat template that raises for a message without a role, as templates do."""

    eos_token_id = 256

    def __init__(self, chat_template="yes"):
        self.chat_template = chat_template

    def __call__(self, text, add_special_tokens):
        assert not add_special_tokens
        return {"input_ids": list(text.encode())}

    def apply_chat_template(self, messages, tokenize):
        assert not tokenize
        if any("role" not in message for message in messages):
            raise jinja2.TemplateError("a message needs a role")
        if messages[0]["content"] == "divide by zero":
            return str(1 / 0)
        if messages[0]["content"] == "surrogate":
            return "\ud83d"
        return "".join(f"<{message['role']}>" + message["content"] for message in messages)


def plan(samples=4, tokens=16, min_tokens=16):
    return CalibrationPlan(samples=samples, tokens=tokens, seed=0, min_tokens=min_tokens)


@pytest.fixture
def rendered(tmp_path):
    """Return the documents of some lines, and how many of them were of no use."""

    def read(*records, tokenizer=None):
        path = tmp_path / "set.jsonl"
        path.write_bytes(
            b"\n".join(record if isinstance(record, bytes) else json.dumps(record).encode() for record in records)
        )
        windows, unreadable = read_records(path)
        return render(windows, tokenizer or ByteTokenizer()), unreadable

    return read


def user(content):
    return {"role": "user", "content": content}


def test_messages_are_rendered_with_the_chat_template(rendered):
    assert rendered({"messages": [user("hi")]}) == (["<user>hi"], 0)


def test_messages_without_a_template_are_joined(rendered):
    record = {"messages": [user("hi"), {"role": "assistant", "content": "ho"}]}
    assert rendered(record, tokenizer=ByteTokenizer(None)) == (["hi\n\nho"], 0)


def test_prompt_completion_text_and_strings(rendered):
    records = {"prompt": "2+2=", "completion": "4"}, {"prompt": "alone"}, {"text": "plain"}, "bare"
    assert rendered(*records) == (["2+2=4", "alone", "plain", "bare"], 0)


@pytest.mark.parametrize("breaks", ["\u2028", "\u2029", "\x85"])
def test_what_only_looks_like_the_end_of_a_line_is_none(rendered, breaks):
    assert rendered(json.dumps({"text": f"one{breaks}two"}, ensure_ascii=False).encode()) == ([f"one{breaks}two"], 0)


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b"3",
        b"null",
        b"{}",
        b'{"prompt": 3}',
        b'{"text": null}',
        b'{"messages": ["x"]}',
        b"\xff\xfe",
        b'{"text": "half an emoji \\ud83d"}',
        b'{"text": ' + b"[" * 200_000,
    ],
)
def test_useless_lines_are_counted_not_fatal(rendered, line):
    assert rendered(line, b"", {"text": "good"}) == (["good"], 1)


@pytest.mark.parametrize(
    "messages", [[{"content": "x"}], [{"role": "user"}], [user(3)], [user("divide by zero")], [user("surrogate")]]
)
def test_a_template_that_fails_in_whatever_way_costs_its_own_record_only(rendered, messages):
    """A template is a foreign program: it may divide by zero, or return something else than text."""
    assert rendered({"messages": messages}, {"text": "good"}) == (["good"], 0)


def test_too_few_tokens_are_refused_with_the_numbers(tmp_path):
    path = tmp_path / "set.jsonl"
    path.write_text('{"text": "tiny"}\nrubbish\n')
    says = r"has 5 tokens in 1 usable samples \(1 lines were unreadable, 0 are in the evaluation set\)"
    with pytest.raises(Permanent, match=says) as raised:
        calibration_windows(plan(), ByteTokenizer(), path)
    assert raised.value.code == "calibration_too_small"


def test_held_out_text_never_calibrates(tmp_path):
    path = tmp_path / "set.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in packaged_split().held_out))
    windows = calibration_windows(plan(samples=10_000, min_tokens=1), ByteTokenizer(), path)
    used = bytes(token for window in windows for token in window if token < 256).decode(errors="replace")
    long = [part for text in packaged_split().held_out for part in text.split("\n\n") if len(part) > 200]
    assert len(long) > 100
    assert not [part for part in long if part in used]


QUESTION, ANSWER = "Why is the slipway greased before a launch?", "So that the hull slides instead of sticking to it."
SAME = {
    "as a question": {"prompt": f"{QUESTION}\n\n", "completion": ANSWER},
    "with a system prompt": {"messages": [{"role": "system", "content": "Be brief."}, user(QUESTION)]},
    "as a text": {"text": f" {QUESTION} "},
    "as the answer": {"prompt": "Explain:", "completion": ANSWER},
}


@pytest.mark.parametrize("record", SAME.values(), ids=SAME)
def test_what_the_evaluation_set_says_does_not_calibrate_however_it_is_written(tmp_path, record):
    path = tmp_path / "set.jsonl"
    conversation = {"messages": [user(QUESTION), {"role": "assistant", "content": ANSWER}]}
    path.write_text("\n".join(json.dumps(record) for record in (conversation, {"text": "Something else altogether."})))
    apart, _ = read_records(written(tmp_path, record))
    (window,) = calibration_windows(plan(tokens=400), ByteTokenizer(), path, apart)
    assert bytes(window[:-1]).decode() == "Something else altogether."


def test_a_short_question_asked_in_both_sets_does_not_calibrate_but_a_short_answer_may_recur(tmp_path):
    asked = {"prompt": "2+2=?", "completion": "4"}
    apart, _ = read_records(written(tmp_path, asked))
    path = tmp_path / "set.jsonl"
    path.write_text(
        "\n".join(json.dumps(record) for record in (asked, {"prompt": "What is 8 / 2? ", "completion": "4"}))
    )
    (window,) = calibration_windows(plan(tokens=400), ByteTokenizer(), path, apart)
    assert bytes(window[:-1]).decode() == "What is 8 / 2? 4"


def test_conversations_that_only_open_alike_calibrate(tmp_path):
    """A greeting is no question; the same conversation is the same, however short its turns are."""

    def chat(*turns):
        return {"messages": [user("Hi"), {"role": "assistant", "content": "Hello"}, *map(user, turns)]}

    apart, _ = read_records(written(tmp_path, chat("What is a keel?")))
    path = tmp_path / "set.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in (chat("What is a keel?"), chat("What is a hull?"))))
    (window,) = calibration_windows(plan(tokens=400), ByteTokenizer(), path, apart)
    assert bytes(window[:-1]).decode() == "<user>Hi<assistant>Hello<user>What is a hull?"


def test_a_system_prompt_common_to_both_sets_costs_nothing(tmp_path):
    system = {
        "role": "system",
        "content": "You answer questions about ships and their yards, in one sentence.\n\nBe kind.",
    }
    apart, _ = read_records(written(tmp_path, {"messages": [system, user(QUESTION)]}))
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps({"messages": [system, user("What is a keel?")]}))
    (window,) = calibration_windows(plan(tokens=400), ByteTokenizer(), path, apart)
    assert bytes(window[:-1]).decode() == f"<system>{system['content']}<user>What is a keel?"


def written(tmp_path, *records):
    path = tmp_path / "evaluation.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    return path


def test_packaged_text_calibrates_where_no_set_is_given():
    windows = calibration_windows(plan(samples=16, tokens=384, min_tokens=1024), ByteTokenizer(), None)
    assert [len(window) for window in windows] == [384] * 16
