"""Tokenizers of model folders: what differs between two of them, and what they make of the probe conversation.

A chat template is a program from outside, so it is rendered in a process of its own, under limits.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from contracts.vocabulary import digest_of, digest_of_json
from services.merger.domain import PARITY_PROMPTS, PROBE_CONVERSATION, TokenizerFacts
from services.merger.ports import Rendering
from shared.errors import Permanent
from shared.runtime.jobs import limited_time
from shared.serving.chat_templates import ChatTemplates

TEMPLATE_LIMIT_S = 10.0
TOKENIZER_LIMIT_S = 120.0
"""Where the machine is busy, some seconds are usual."""
Turns = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Instant:
    """A clock that stands still: templates may write the date, and are rendered both before and after the merge."""

    at: datetime

    def now(self) -> datetime:
        """Return the instant."""
        return self.at

    def monotonic(self) -> float:
        """No time passes."""
        return 0.0


def limited() -> AbstractContextManager[None]:
    """Bound the time that a tokenizer may take; it is a program from outside, too: its regular expressions are."""
    reason = (
        f"Loading the tokenizer and encoding a few short prompts took longer than {TOKENIZER_LIMIT_S:g} s: its regular "
        "expressions backtrack, or its files are too large."
    )
    return limited_time(TOKENIZER_LIMIT_S, "tokenizer_changed", reason)


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a model folder, never code from it."""
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def vocabulary_size(tokenizer: Any) -> int:
    """Count the ids from 0 to the highest."""
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def brings_tokenizer(folder: Path) -> bool:
    """Return whether a checkpoint has a tokenizer of its own."""
    return (folder / "tokenizer_config.json").is_file() or (folder / "tokenizer.json").is_file()


def compare_tokenizers(base: Path, checkpoint: Path) -> tuple[int, TokenizerFacts | None]:
    """Hold a checkpoint's own tokenizer against the base's.

    Files may differ byte by byte when another library version saved them, so the comparison is by meaning.

    Returns:
        Size of the base's vocabulary, and the facts of the checkpoint's own; None when it brings none.
    """
    mine = load_tokenizer(base)
    size = vocabulary_size(mine)
    if not brings_tokenizer(checkpoint):
        template = checkpoint / "chat_template.jinja"
        if not template.is_file() or template.read_text(encoding="utf-8") == mine.chat_template:
            return size, None
        return size, TokenizerFacts(size, size, ("chat template",), extends=False)
    theirs = load_tokenizer(checkpoint)
    text = " ".join(PARITY_PROMPTS) + "".join(turn["content"] for turn in PROBE_CONVERSATION)
    vocabulary, own = mine.get_vocab(), theirs.get_vocab()
    same_ids = mine(text)["input_ids"] == theirs(text)["input_ids"]
    compared = {
        "vocabulary": vocabulary == own,
        "token ids of a probe text": same_ids,
        "chat template": mine.chat_template == (theirs.chat_template or mine.chat_template),
        "end of text token": mine.eos_token == theirs.eos_token,
    }
    differences = tuple(what for what, is_same in compared.items() if not is_same)
    extends = len(own) > len(vocabulary) and same_ids and vocabulary.items() <= own.items()
    return size, TokenizerFacts(vocabulary_size(theirs), size, differences, extends)


def render(folder: Path, now: datetime) -> Rendering:
    """Return the digests of the rendered probe conversation and of its token ids.

    Raises:
        Permanent: `tokenizer_changed` when the template cannot be rendered.
    """
    tokenizer = load_tokenizer(folder)
    if not tokenizer.chat_template:
        return Rendering(None, None)
    (text,) = render_each(tokenizer, [PROBE_CONVERSATION], now)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return Rendering(digest_of(text.encode()), digest_of_json(ids))


def encode_prompts(folder: Path, prompts: Sequence[str], now: datetime) -> list[torch.Tensor]:
    """Turn the prompts into token ids, as a user's message where the model has a chat template.

    Raises:
        Permanent: `tokenizer_changed` when the template cannot be rendered.
    """
    tokenizer = load_tokenizer(folder)
    texts = list(prompts)
    if tokenizer.chat_template:
        texts = render_each(tokenizer, [[{"role": "user", "content": prompt}] for prompt in prompts], now)
    return [tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"][0] for text in texts]


def render_each(tokenizer: Any, conversations: Sequence[Turns], now: datetime) -> list[str]:
    """Render conversations exactly as the tokenizer itself would.

    Raises:
        Permanent: `tokenizer_changed` when the template is broken, goes beyond its limits, or refuses one of them.
    """
    known = {**tokenizer.special_tokens_map, "tools": None, "documents": None, "add_generation_prompt": True}
    try:
        template = tokenizer.get_chat_template()
    except ValueError as error:
        raise Permanent("tokenizer_changed", "The tokenizer has several chat templates, and no default.") from error

    async def ask() -> list[str]:
        templates = ChatTemplates(Instant(now), limit_s=TEMPLATE_LIMIT_S)
        try:
            return [await render_one(templates, template, known, turns) for turns in conversations]
        finally:
            await templates.close()

    try:
        return asyncio.run(ask())
    except Permanent as error:
        raise Permanent("tokenizer_changed", f"{error.reason.rstrip('.')}.") from error


async def render_one(templates: ChatTemplates, template: str, known: Mapping[str, Any], turns: Turns) -> str:
    """Render a conversation; without its system turn where the template refuses that."""
    try:
        return await templates.render_with(template, {**known, "messages": turns})
    except Permanent as error:
        if error.code != "bad_request" or turns[0]["role"] != "system":
            raise
        return await render_one(templates, template, known, turns[1:])
