"""Calibration samples: the checkpoint's own JSONL, or the packaged text, as windows of token ids."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from services.quantiser.adapters.packaged_text import packaged_split
from services.quantiser.domain import CalibrationPlan, pack_windows, without_overlap
from shared.errors import Permanent


def calibration_windows(
    plan: CalibrationPlan, tokenizer: Any, path: Path | None, apart: Sequence[str] = ()
) -> list[list[int]]:
    """Give the windows that calibrate.

    Chat templates run in the tokenizer's sandbox; this process is killable, which bounds their time.

    Args:
        plan: How many windows, how long.
        tokenizer: The merged model's own tokenizer.
        path: JSONL, each line an object with `messages` (rendered with the chat template), `prompt` (and perhaps
            `completion`) or `text`. None means the packaged text.
        apart: Texts that quality is measured on besides the packaged ones.

    Raises:
        Permanent: `calibration_too_small`: fewer tokens than the plan's least remain after unreadable lines and
            passages of the texts that quality is measured on were left out.
    """
    if path is None:
        documents, unreadable = list(packaged_split().calibration), 0
    else:
        documents, unreadable = read_documents(path.read_text(encoding="utf-8").splitlines(), tokenizer)
    kept = without_overlap(documents, (*packaged_split().held_out, *apart))
    encoded = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in kept]
    windows = pack_windows(
        encoded, length=plan.tokens, samples=plan.samples, seed=plan.seed, separator=tokenizer.eos_token_id
    )
    found = sum(len(window) for window in windows)
    if found < plan.min_tokens:
        raise Permanent(
            "calibration_too_small",
            f"The calibration set gives {found} tokens from {len(kept)} usable samples ({unreadable} lines were "
            f"unreadable); at least {plan.min_tokens} are needed.",
        )
    return windows


def evaluation_documents(path: Path | None, tokenizer: Any) -> list[str]:
    """Give the texts of a checkpoint's own evaluation set, in the format of a calibration set; none without one."""
    if path is None:
        return []
    return read_documents(path.read_text(encoding="utf-8").splitlines(), tokenizer)[0]


def read_documents(lines: Iterable[str], tokenizer: Any) -> tuple[list[str], int]:
    """Render the lines of a calibration set; give the texts, and how many lines were of no use."""
    documents: list[str] = []
    unreadable = 0
    for line in lines:
        if not line.strip():
            continue
        text = _render(line, tokenizer)
        if text:
            documents.append(text)
        else:
            unreadable += 1
    return documents, unreadable


def _render(line: str, tokenizer: Any) -> str | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict):
        return None
    if isinstance(record.get("messages"), list):
        return _render_chat(record["messages"], tokenizer)
    if isinstance(record.get("prompt"), str):
        return str(record["prompt"]) + str(record.get("completion") or "")
    return str(record["text"]) if isinstance(record.get("text"), str) else None


def _render_chat(messages: list[Any], tokenizer: Any) -> str | None:
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        parts = [m["content"] for m in messages if isinstance(m, dict) and isinstance(m.get("content"), str)]
        return "\n\n".join(parts)
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False))
    except (TemplateError, TypeError, KeyError, ValueError):
        return None
