"""Compares the tokenizers of two model folders, and renders and encodes the probe conversation.

A chat template is external code and is rendered in a separate, limited process.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from contracts.vocabulary import digest_of, digest_of_json
from services.merger.adapters.rendering import Render, render_all
from services.merger.adapters.safetensors_header import read_config
from services.merger.domain import PARITY_PROMPTS, PROBE_CONVERSATION, TokenizerComparison
from services.merger.domain.vocabulary import ANSWER_END, CHAT_TEMPLATE
from services.merger.ports import Conversation, Rendering
from shared.errors import Permanent
from shared.runtime.worker import limited_time

LARGEST_ID = 2**22 - 1
"""Largest token ID. Libraries allocate memory up to the largest ID: 8 GiB for 2**31; large vocabularies have 2**18."""
TOKENIZER_LIMIT_S = 120.0
"""Seconds for a tokenizer; some seconds are normal on a busy machine."""


_render: Render = render_all


def render_by(render: Render | None) -> None:
    """Set the function that renders templates; None restores a child process of this process."""
    global _render  # noqa: PLW0603 - a confined worker starts no process, and the checks that render do not know that
    _render = render or render_all


def time_limit() -> AbstractContextManager[None]:
    """Limit the time of a tokenizer's code, because its regular expressions are external."""
    reason = (
        f"The tokenizer was rejected: loading it and encoding a few short prompts exceeded {TOKENIZER_LIMIT_S:g} s. "
        "Its regular expressions backtrack, or its files are too large."
    )
    return limited_time(TOKENIZER_LIMIT_S, "tokenizer_changed", reason)


def load_tokenizer(folder: Path) -> Any:
    """Return a folder's tokenizer; code in the folder is not run.

    Raises:
        Permanent: `tokenizer_changed` if a token ID exceeds `LARGEST_ID`.
    """
    for token, number in _ids_in(folder):
        if type(number) is int and number > LARGEST_ID:
            reason = f"The tokenizer gives {str(token)[:80]!r} the id {number}; the limit is {LARGEST_ID}."
            raise Permanent("tokenizer_changed", reason)
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def _ids_in(folder: Path) -> Iterator[tuple[Any, Any]]:
    """Yield tokens and IDs in a tokenizer's files; values of unexpected form are skipped."""
    whole, settings = read_config(folder / "tokenizer.json") or {}, read_config(folder / "tokenizer_config.json") or {}
    yield from _object(_object(whole.get("model")).get("vocab")).items()
    for name in ("vocab.json", "added_tokens.json"):
        yield from (read_config(folder / name) or {}).items()
    added = whole.get("added_tokens")
    for token in added if isinstance(added, list) else ():
        yield _object(token).get("content"), _object(token).get("id")
    for number, token in _object(settings.get("added_tokens_decoder")).items():
        if number.isascii() and number.isdigit():
            yield token, int(number[:20])


def _object(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def vocabulary_size(tokenizer: Any) -> int:
    """Return the number of IDs from 0 to the highest."""
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def has_tokenizer(folder: Path) -> bool:
    """Return whether a checkpoint includes a tokenizer."""
    return (folder / "tokenizer_config.json").is_file() or (folder / "tokenizer.json").is_file()


def compare_tokenizers(base: Path, checkpoint: Path) -> tuple[int, TokenizerComparison | None]:
    """Compare a checkpoint's tokenizer with the base's.

    Library versions save different files for equal tokenizers, so behaviour is compared, not bytes.

    Returns:
        Size of the base's vocabulary, and the comparison; None if the checkpoint has no tokenizer.
    """
    base_tokenizer = load_tokenizer(base)
    size = vocabulary_size(base_tokenizer)
    if not has_tokenizer(checkpoint):
        template = checkpoint / "chat_template.jinja"
        if not template.is_file() or template.read_text(encoding="utf-8") == base_tokenizer.chat_template:
            return size, None
        return size, TokenizerComparison(size, (CHAT_TEMPLATE,), extends=False, only_template=True)
    tokenizer = load_tokenizer(checkpoint)
    text = " ".join(PARITY_PROMPTS) + "".join(turn["content"] for turn in PROBE_CONVERSATION)
    base_vocabulary, vocabulary = base_tokenizer.get_vocab(), tokenizer.get_vocab()
    same_ids = base_tokenizer(text)["input_ids"] == tokenizer(text)["input_ids"]
    base_template = base_tokenizer.chat_template
    compared = {
        "vocabulary": base_vocabulary == vocabulary,
        "token ids of a probe text": same_ids,
        CHAT_TEMPLATE: base_template == (tokenizer.chat_template or base_template),
        ANSWER_END: base_tokenizer.eos_token == tokenizer.eos_token,
    }
    differences = tuple(name for name, is_same in compared.items() if not is_same)
    extends = len(vocabulary) > len(base_vocabulary) and same_ids and base_vocabulary.items() <= vocabulary.items()
    return size, TokenizerComparison(
        vocabulary_size(tokenizer),
        differences,
        extends,
        has_template=bool(tokenizer.chat_template),
        end_id=tokenizer.eos_token_id if ANSWER_END in differences else None,
    )


def render(folder: Path, now: datetime) -> Rendering:
    """Return digests of the rendered probe conversation and its token IDs.

    Raises:
        Permanent: `tokenizer_changed` if the template cannot be rendered.
    """
    tokenizer = load_tokenizer(folder)
    if not tokenizer.chat_template:
        return Rendering(None, None)
    (text,) = render_each(tokenizer, [PROBE_CONVERSATION], now)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return Rendering(digest_of(text.encode()), digest_of_json(ids))


def encode_prompts(folder: Path, prompts: Sequence[str], now: datetime) -> list[torch.Tensor]:
    """Return the prompts' token IDs; a model with a chat template gets each as a user turn.

    Raises:
        Permanent: `tokenizer_changed` if the template cannot be rendered.
    """
    tokenizer = load_tokenizer(folder)
    texts = list(prompts)
    if tokenizer.chat_template:
        texts = render_each(tokenizer, [[{"role": "user", "content": prompt}] for prompt in prompts], now)
    return [tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"][0] for text in texts]


def render_each(tokenizer: Any, conversations: Sequence[Conversation], now: datetime) -> list[str]:
    """Render conversations exactly as the tokenizer would.

    Raises:
        Permanent: `tokenizer_changed` if the template is broken, exceeds its limits, or rejects a conversation.
    """
    variables = {**tokenizer.special_tokens_map, "tools": None, "documents": None, "add_generation_prompt": True}
    try:
        template = tokenizer.get_chat_template()
    except ValueError as error:
        reason = "The tokenizer was rejected: it has several chat templates and no default."
        raise Permanent("tokenizer_changed", reason) from error

    try:
        return _render(template, variables, conversations, now)
    except Permanent as error:
        raise Permanent("tokenizer_changed", f"{error.reason.rstrip('.')}.") from error
