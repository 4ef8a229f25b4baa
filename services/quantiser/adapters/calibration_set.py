"""Calibration samples as windows of token IDs, from the checkpoint's own JSONL or the packaged text."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from contracts.evaluations.text_sets import TextRecord, read_text_records
from services.quantiser.adapters.packaged_text import packaged_split
from services.quantiser.domain import CalibrationPlan, pack_windows, remove_overlap, turn_keys
from shared.errors import Permanent


def calibration_windows(
    plan: CalibrationPlan, tokenizer: Any, path: Path | None, evaluation: Sequence[TextRecord] = ()
) -> list[list[int]]:
    """Return the calibration windows as token IDs.

    Args:
        plan: Number and length of the windows.
        tokenizer: The merged model's tokenizer.
        path: JSONL; each line is a string, or an object with `messages` (rendered by the chat template), `prompt` (and
            optionally `completion`) or `text`. None for the packaged text.
        evaluation: Records of the evaluation set; calibration records with the same content are excluded.

    Raises:
        Permanent: `calibration_too_small` if the remaining text has fewer tokens than the plan's minimum.
    """
    if path is None:
        documents, left_out = list(packaged_split().calibration), ""
    else:
        records, unreadable = read_records(path)
        held_out = {key for record in evaluation for key in turn_keys(record.turns)}
        usable = [record for record in records if held_out.isdisjoint(turn_keys(record.turns))]
        documents = render(usable, tokenizer)
        unreadable += len(usable) - len(documents)
        left_out = f" ({unreadable} lines were unreadable, {len(records) - len(usable)} are in the evaluation set)"
    turns = [turn for record in evaluation for turn in record.turns]
    kept = remove_overlap(documents, (*packaged_split().held_out, *turns))
    encoded = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in kept]
    windows = pack_windows(
        encoded, length=plan.tokens, samples=plan.samples, seed=plan.seed, separator=tokenizer.eos_token_id
    )
    tokens = sum(len(window) for window in windows)
    if tokens < plan.min_tokens:
        reason = (
            f"The calibration set has {tokens} tokens in {len(kept)} usable samples{left_out}; the minimum is "
            f"{plan.min_tokens}."
        )
        raise Permanent("calibration_too_small", reason)
    return windows


def read_records(path: Path | None) -> tuple[list[TextRecord], int]:
    """Return a set's readable records and the number of its other lines; empty without a file."""
    lines = [] if path is None else [record for _, record in read_text_records(path.read_bytes())]
    records = [record for record in lines if isinstance(record, TextRecord)]
    return records, len(lines) - len(records)


def render(records: Iterable[TextRecord], tokenizer: Any) -> list[str]:
    """Return records as model input, without those that the chat template rejects.

    Templates run in the tokenizer's sandbox, within this process's time limit.
    """
    documents = (
        _render_chat(list(record.messages), tokenizer)
        if record.messages
        else record.text or record.prompt + record.completion
        for record in records
    )
    return [document for document in documents if document]


def _render_chat(messages: list[dict[str, Any]], tokenizer: Any) -> str | None:
    if not tokenizer.chat_template:
        return "\n\n".join(turn["content"] for turn in messages if isinstance(turn.get("content"), str))
    try:
        document = str(tokenizer.apply_chat_template(messages, tokenize=False))
        document.encode()
    except Exception:  # noqa: BLE001 - a template is code from outside and can raise anything
        return None
    return document
