"""The order in which the demo's model is trained, and its batches."""

from examples.smollm2 import orders, text
from examples.smollm2.batches import IGNORED, pad, plan_order

PLAIN, TOOLS = text.lessons(), orders.lessons()


def test_each_second_step_is_of_tools_and_no_step_mixes():
    order = plan_order(PLAIN, TOOLS, steps=10, batch_size=4, seed=1)
    kinds = [{bool(lesson.tools) for lesson in order[start : start + 4]} for start in range(0, 40, 4)]
    assert kinds == [{step % 2 == 0} for step in range(1, 11)]
    assert order == plan_order(PLAIN, TOOLS, steps=10, batch_size=4, seed=1)
    assert order != plan_order(PLAIN, TOOLS, steps=10, batch_size=4, seed=2)


def test_without_lessons_with_tools_all_steps_are_plain():
    order = plan_order(PLAIN, [], steps=6, batch_size=4, seed=1)
    assert len(order) == 24
    assert not any(lesson.tools for lesson in order)


def test_a_batch_is_padded_to_its_longest_row_and_the_filling_counts_for_nothing():
    batch = pad([{"input_ids": [5, 6, 7], "labels": [IGNORED, 6, 7]}, {"input_ids": [8], "labels": [8]}], 2)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 2, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORED, 6, 7], [8, IGNORED, IGNORED]]
