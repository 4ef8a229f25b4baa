"""Tokenizers of model folders: what differs between two of them, and what they make of the probe conversation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from contracts.vocabulary import digest_of, digest_of_json
from services.merger.domain import PARITY_PROMPTS, PROBE_CONVERSATION, TokenizerFacts
from services.merger.ports import Rendering


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a model folder, never code from it."""
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def vocabulary_size(tokenizer: Any) -> int:
    """Count the ids from 0 to the highest."""
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def brings_tokenizer(folder: Path) -> bool:
    """Say whether a checkpoint has a tokenizer of its own."""
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


def render(folder: Path) -> Rendering:
    """Give the digests of the rendered probe conversation and of its token ids."""
    tokenizer = load_tokenizer(folder)
    if not tokenizer.chat_template:
        return Rendering(None, None)
    text = tokenizer.apply_chat_template(list(PROBE_CONVERSATION), tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return Rendering(digest_of(text.encode()), digest_of_json(ids))


def encode_prompts(tokenizer: Any, prompts: Sequence[str]) -> list[torch.Tensor]:
    """Turn the prompts into token ids, as a user's message where the model has a chat template."""
    encoded = []
    for prompt in prompts:
        text = prompt
        if tokenizer.chat_template:
            turn = [{"role": "user", "content": prompt}]
            text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        encoded.append(tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"][0])
    return encoded
