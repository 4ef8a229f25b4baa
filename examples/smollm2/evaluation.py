"""Measures what a run has learned, on text and questions that it was not trained on."""

from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from examples.smollm2 import orders
from examples.smollm2.batches import IGNORED, encode, pad


def has_bfloat16() -> bool:
    """Return whether the CPU has products of bfloat16 (AVX512_BF16 or AMX); emulated ones are slower than float32.

    Autocast uses them for linear layers and leaves the rotary embedding in float32. A switch of the process, such as
    `torch.backends.mkldnn.matmul.fp32_precision`, would round that as well, and with AMX ruin positions above 256.
    """
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


@torch.no_grad()
def held_out_loss(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> float:
    """Mean negative log likelihood per token, in nats, of text that was never trained on."""
    model.eval()
    losses = []
    for text in texts:
        ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=256)["input_ids"]
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16()):
            losses.append(float(model(input_ids=ids, labels=ids).loss))
    return sum(losses) / len(losses)


@torch.no_grad()
def ratio_of_right_calls(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> float:
    """Return the share of held-out questions that the model answers with exactly the right call.

    The most likely token at each position of the expected call is the expected one: greedy generation writes the same.
    """
    model.eval()
    asked, right = orders.held_out(), 0
    for lesson in asked:
        batch = pad([encode(lesson, tokenizer)], tokenizer.pad_token_id)
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16()):
            likely = model(input_ids=batch["input_ids"]).logits[0, :-1].argmax(-1)
        labels = batch["labels"][0, 1:-1]  # without the line break behind the end of the turn
        right += bool((likely[:-1] == labels)[labels != IGNORED].all())
    return right / len(asked)


def evaluations(before: float, after: float, right_calls: float | None) -> list[dict[str, Any]]:
    """Return the results that travel with the checkpoint into its lineage; None stands for not measured."""
    name = "python-reference"
    results = [
        {"name": f"{name}-base", "metric": "loss", "value": before, "higher_is_better": False},
        {"name": name, "metric": "loss", "value": after, "higher_is_better": False},
    ]
    if right_calls is not None:
        results.append({"name": "order-calls", "metric": "exact_ratio", "value": right_calls, "higher_is_better": True})
    return results
