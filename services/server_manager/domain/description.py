"""The description of a model for gateways (chat template, special tokens, context), from its files."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DESCRIBING_FILES = ("config.json", "tokenizer_config.json", "chat_template.jinja")
DEFAULT_CONTEXT_TOKENS = 2048
MAX_TEXT_CHARS = 200_000
"""Longest chat template or special token: both are part of events and routes, limited to 8 MB by the bus."""


@dataclass(frozen=True)
class Description:
    """A model's chat template, special tokens and context length in tokens."""

    chat_template: str | None
    bos_token: str | None
    eos_token: str | None
    context_tokens: int


def describe_model(files: Mapping[str, str], *, max_model_len: int | None = None) -> Description:
    """Return the description in the texts of `DESCRIBING_FILES`; any may be missing.

    Args:
        files: content by file name.
        max_model_len: the engine's longest context, in tokens.

    Raises:
        ValueError: A text is longer than `MAX_TEXT_CHARS`, or not valid Unicode.
    """
    config = _object(files.get("config.json"))
    tokenizer = _object(files.get("tokenizer_config.json"))
    template = _text("chat_template", files.get("chat_template.jinja") or tokenizer.get("chat_template"))
    own = config.get("max_position_embeddings")
    bounds = [bound for bound in (own, max_model_len) if isinstance(bound, int) and bound > 0]
    return Description(
        chat_template=template,
        bos_token=_token("bos_token", tokenizer),
        eos_token=_token("eos_token", tokenizer),
        context_tokens=min(bounds) if bounds else DEFAULT_CONTEXT_TOKENS,
    )


def _object(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _token(name: str, tokenizer: Mapping[str, Any]) -> str | None:
    """Return a special token's text, stored plain or as an object with `content`."""
    value = tokenizer.get(name)
    return _text(name, value.get("content") if isinstance(value, dict) else value)


def _text(name: str, value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    if len(value) > MAX_TEXT_CHARS:
        msg = f"{name} has {len(value):,} characters; the limit is {MAX_TEXT_CHARS:,}"
        raise ValueError(msg)
    value.encode()  # a lone surrogate raises UnicodeEncodeError, a ValueError
    return value
