"""Calibration samples: the checkpoint's own JSONL, or the packaged text, as windows of token ids."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from contracts.text_sets import TextRecord, read_text_records
from services.quantiser.adapters.packaged_text import packaged_split
from services.quantiser.domain import CalibrationPlan, pack_windows, turn_keys, without_overlap
from shared.errors import Permanent


def calibration_windows(
    plan: CalibrationPlan, tokenizer: Any, path: Path | None, apart: Sequence[TextRecord] = ()
) -> list[list[int]]:
    """Return the windows that calibrate.

    Args:
        plan: How many windows, how long.
        tokenizer: The merged model's own tokenizer.
        path: JSONL, each line an object with `messages` (rendered with the chat template), `prompt` (and perhaps
            `completion`) or `text`, or a string. None means the packaged text.
        apart: What quality is measured on besides the packaged text; what says the same does not calibrate, however
            it is written down.

    Raises:
        Permanent: `calibration_too_small`: fewer tokens than the plan's least remain after unreadable lines and
            what quality is measured on were left out.
    """
    if path is None:
        documents, left_out = list(packaged_split().calibration), ""
    else:
        records, unreadable = read_records(path)
        held_out = {key for record in apart for key in turn_keys(record.turns)}
        free = [record for record in records if held_out.isdisjoint(turn_keys(record.turns))]
        documents = render(free, tokenizer)
        unreadable += len(free) - len(documents)
        left_out = f" ({unreadable} lines were unreadable, {len(records) - len(free)} are in the evaluation set)"
    kept = without_overlap(documents, (*packaged_split().held_out, *(turn for one in apart for turn in one.turns)))
    encoded = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in kept]
    windows = pack_windows(
        encoded, length=plan.tokens, samples=plan.samples, seed=plan.seed, separator=tokenizer.eos_token_id
    )
    found = sum(len(window) for window in windows)
    if found < plan.min_tokens:
        raise Permanent(
            "calibration_too_small",
            f"The calibration set gives {found} tokens from {len(kept)} usable samples{left_out}; at least "
            f"{plan.min_tokens} are needed.",
        )
    return windows


def read_records(path: Path | None) -> tuple[list[TextRecord], int]:
    """Read the lines of a set that are of use, and count the others; a set that is not there has none."""
    found = [] if path is None else [record for _, record in read_text_records(path.read_bytes())]
    records = [record for record in found if isinstance(record, TextRecord)]
    return records, len(found) - len(records)


def render(records: Iterable[TextRecord], tokenizer: Any) -> list[str]:
    """Write records as the model reads them; those that the chat template refuses fall away.

    Chat templates run in the tokenizer's sandbox; this process is killable, which bounds their time.
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
        return "\n\n".join(one["content"] for one in messages if isinstance(one.get("content"), str))
    try:
        document = str(tokenizer.apply_chat_template(messages, tokenize=False))
        document.encode()
    except Exception:  # noqa: BLE001 - a template is a program of somebody else's
        return None
    return document
