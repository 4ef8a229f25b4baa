"""Loops at the end of an answer are found in any script; lists, tables and code are none."""

import json
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decisions.scorers.repetition import repetition_ratio

PROSE = (
    "Thank you for your message. Your parcel left our warehouse on Monday and is now with the carrier. It usually "
    "takes three working days. If it has not arrived by Friday, please write to us again, and we will send another "
    "one or refund the price, as you prefer. You can follow it at any time with the number in your confirmation. "
)
LOOPS = {
    "a character": "a" * 400,
    "a word": "no " * 60,
    "a sentence": "I will check that for you. " * 20,
    "words": "over and " * 100,
    "Chinese": "好的，我来帮您。" * 40,
    "a Chinese character": "的" * 300,
    "Japanese": "かしこまりました。" * 30,
    "Arabic": "سأتحقق من ذلك. " * 30,
    "JSON": '{"a":1},' * 500,
    "JSON with keys that repeat": '{"name": "a", "value": 1}, {"name": "b", "value": 1}, {"name": "c", "value": 2}, '
    * 20,
    "white space": '{"order": 73, "note": "' + "\n" * 600 + ".",
    "code": "    x = x + 1\n" * 60,
    "after good prose": PROSE * 1 + "And then we will see what happens next. " * 60,
    "the last 45 %": PROSE * 4 + "We are here to help you. " * 45,
}


@pytest.mark.parametrize("text", LOOPS.values(), ids=LOOPS)
def test_a_loop_is_most_of_the_tail(text):
    assert repetition_ratio(text) > 0.5


def rows(count):
    draw = random.Random(4)
    return [
        {
            "id": number,
            "name": draw.choice(["Anna", "Ben", "Chloé", "Dilek"]),
            "quantity": draw.randint(1, 40),
            "paid": draw.random() < 0.5,
        }
        for number in range(count)
    ]


ANSWERS = {
    "prose": PROSE,
    "nothing": "",
    "laughter": "ha ha ha",
    "JSON rows": json.dumps(rows(60)),
    "indented JSON rows": json.dumps(rows(60), indent=2),
    "a table": "| id | name |\n|----|------|\n" + "\n".join(f"| {row['id']} | {row['name']} |" for row in rows(50)),
    "numbers": ", ".join(map(str, range(1, 400))),
    "a numbered list": "\n".join(f"{n}. Press the button {n} times." for n in range(1, 40)),
    "a poem with a refrain": (
        "\n".join(f"Verse {n} {PROSE[n * 9 : n * 9 + 70]}\nRow, row, row your boat" for n in range(6))
    ),
    "a rule of dashes": PROSE + "-" * 80 + "\n" + PROSE,
    "code": "\n".join(f"def f{n}(x):\n    return x + {n}\n" for n in range(40)),
    "Chinese": "您的包裹已于周一离开我们的仓库，现在由承运商运送。通常需要三个工作日。如果周五之前还没有收到，请再次与我们联系。",
}


@pytest.mark.parametrize("text", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_has_no_loop(text):
    assert repetition_ratio(text) <= 0.2


def test_a_loop_that_ended_long_before_the_end_does_not_count():
    assert repetition_ratio("no " * 200 + PROSE * 1 + "".join(map(chr, range(0x4E00, 0x4E00 + 2_000)))) == 0.0


def test_a_loop_that_is_closed_in_the_end_counts():
    assert repetition_ratio('{"items": [' + '{"sku": "A-1"}, ' * 60 + '{"sku": "A-2"}]}') > 0.9


@given(st.text(max_size=300))
def test_the_ratio_is_one(text):
    assert 0.0 <= repetition_ratio(text) <= 1.0


@given(st.text(min_size=1, max_size=60).filter(str.strip))
def test_any_unit_that_is_written_again_long_enough_is_a_loop(unit):
    assert repetition_ratio(unit * (240 // len(unit) + 4)) > 0.5


@pytest.mark.parametrize("unit", ["a", "ab", PROSE, "0123456789" * 7 + "x"])
def test_no_text_takes_long(unit):
    began = time.thread_time()
    repetition_ratio(unit * 100_000)
    assert time.thread_time() - began < 2.0
