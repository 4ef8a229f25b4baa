"""Turns lessons into batches of tokens, rendered by the model's own chat template."""

import random
from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase

from examples.smollm2.text import Lesson, Turn

MAX_TOKENS = 256
TOOLS_EVERY = 2
"""Each second batch is of conversations with a tool. They are twice as long as the others: a batch of both kinds would
be padded to the longer ones, and take as long."""
IGNORED = -100  # the label that the loss skips

Row = dict[str, list[int]]


def encode(lesson: Lesson, tokenizer: PreTrainedTokenizerBase) -> Row:
    """Return the tokens of a lesson and its labels; only the assistant's turns count in the loss."""

    def tokens(turns: Sequence[Turn], *, prompt: bool) -> list[int]:
        text = tokenizer.apply_chat_template(
            list(turns), tools=list(lesson.tools) or None, tokenize=False, add_generation_prompt=prompt
        )
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    ids = tokens(lesson.turns, prompt=False)[:MAX_TOKENS]
    labels = [IGNORED] * len(ids)
    for place, turn in enumerate(lesson.turns):
        if turn["role"] == "assistant":
            start = len(tokens(lesson.turns[:place], prompt=True))
            end = len(tokens(lesson.turns[: place + 1], prompt=False))
            labels[start:end] = ids[start:end]
    return {"input_ids": ids, "labels": labels}


def pad(rows: Sequence[Row], filling: int) -> dict[str, torch.Tensor]:
    """Return a batch as (rows, tokens of the longest) tensors: `input_ids`, `attention_mask`, `labels`."""
    length = max(len(row["input_ids"]) for row in rows)

    def stack(name: str, value: int) -> torch.Tensor:
        return torch.tensor([row[name] + [value] * (length - len(row[name])) for row in rows])

    mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (length - len(row["input_ids"])) for row in rows])
    return {"input_ids": stack("input_ids", filling), "attention_mask": mask, "labels": stack("labels", IGNORED)}


def plan_order(
    plain: Sequence[Lesson], with_tools: Sequence[Lesson], *, steps: int, batch_size: int, seed: int
) -> list[Lesson]:
    """Return the lessons of a run in the order of its steps, `batch_size` for each; the same seed gives the same order.

    Args:
        plain: Lessons without tools.
        with_tools: Lessons with tools, for each second step; without any, all steps take the plain ones.
        steps: Steps of the run.
        batch_size: Lessons of a step.
        seed: Seed of the choice.
    """
    choice = random.Random(seed)
    order: list[Lesson] = []
    for step in range(1, steps + 1):
        source = with_tools if with_tools and step % TOOLS_EVERY == 0 else plain
        order += choice.sample(source, batch_size)
    return order


def knows_tools(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the chat template of a model renders tools."""
    template = tokenizer.chat_template
    return isinstance(template, str) and "tools" in template
