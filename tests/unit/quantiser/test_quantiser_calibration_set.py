"""Calibration sets as checkpoints bring them: good lines are used, bad ones counted, held-out text left out."""

import json

import jinja2
import pytest

from services.quantiser.adapters.calibration_set import calibration_windows, read_documents
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
        return "".join(f"<{message['role']}>{message['content']}" for message in messages)


def plan(samples=4, tokens=16, min_tokens=16):
    return CalibrationPlan(samples=samples, tokens=tokens, seed=0, min_tokens=min_tokens)


def lines(*records):
    return [record if isinstance(record, str) else json.dumps(record) for record in records]


def test_messages_are_rendered_with_the_chat_template():
    found, bad = read_documents(lines({"messages": [{"role": "user", "content": "hi"}]}), ByteTokenizer())
    assert (found, bad) == (["<user>hi"], 0)


def test_messages_without_a_template_are_joined():
    record = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}
    assert read_documents(lines(record), ByteTokenizer(None)) == (["hi\n\nho"], 0)


def test_prompt_completion_and_text():
    records = lines({"prompt": "2+2=", "completion": "4"}, {"prompt": "alone"}, {"text": "plain"})
    assert read_documents(records, ByteTokenizer()) == (["2+2=4", "alone", "plain"], 0)


@pytest.mark.parametrize(
    "line", ["{", "[]", "3", "null", "{}", '{"prompt": 3}', '{"text": null}', '{"messages": [{"content": "x"}]}'],
)  # fmt: skip
def test_useless_lines_are_counted_not_fatal(line):
    assert read_documents([line, "", '{"text": "good"}'], ByteTokenizer()) == (["good"], 1)


def test_too_few_tokens_are_refused_with_the_numbers(tmp_path):
    path = tmp_path / "set.jsonl"
    path.write_text('{"text": "tiny"}\nrubbish\n')
    with pytest.raises(Permanent, match=r"gives 5 tokens from 1 usable samples \(1 lines were unreadable\)") as raised:
        calibration_windows(plan(), ByteTokenizer(), path)
    assert raised.value.code == "calibration_too_small"


def test_held_out_text_never_calibrates(tmp_path):
    path = tmp_path / "set.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in packaged_split().held_out))
    found = calibration_windows(plan(samples=10_000, min_tokens=1), ByteTokenizer(), path)
    used = bytes(token for window in found for token in window if token < 256).decode(errors="replace")
    long = [part for text in packaged_split().held_out for part in text.split("\n\n") if len(part) > 200]
    assert len(long) > 100
    assert not [part for part in long if part in used]


def test_packaged_text_calibrates_where_no_set_is_given():
    found = calibration_windows(plan(samples=16, tokens=384, min_tokens=1024), ByteTokenizer(), None)
    assert [len(window) for window in found] == [384] * 16
