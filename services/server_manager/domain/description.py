"""The description of a model for gateways, read from the files beside its weights."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DESCRIBING_FILES = ("config.json", "tokenizer_config.json", "chat_template.jinja")
DEFAULT_CONTEXT_TOKENS = 2048
MAX_TEXT_CHARS = 200_000
"""Limit of a chat template and of a special token: they are part of events and routes, which the bus bounds at 8 MB."""


@dataclass(frozen=True)
class Description:
    """Chat template, special tokens and context length of a model."""

    chat_template: str | None
    bos_token: str | None
    eos_token: str | None
    context_tokens: int


def describe_model(files: Mapping[str, str], *, max_model_len: int | None = None) -> Description:
    """Read a description from the texts of `DESCRIBING_FILES`; files that do not exist are left out.

    Args:
        files: file name to content.
        max_model_len: the engine's own bound on the context, in tokens.

    Raises:
        ValueError: A text is longer than `MAX_TEXT_CHARS`, or is no Unicode text: no event could contain it.
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
    """Return a special token's text; tokenizers write it plain or as an object with `content`."""
    value = tokenizer.get(name)
    return _text(name, value.get("content") if isinstance(value, dict) else value)


def _text(name: str, value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    if len(value) > MAX_TEXT_CHARS:
        msg = f"{name} has {len(value):,} characters; the limit is {MAX_TEXT_CHARS:,}"
        raise ValueError(msg)
    value.encode()  # half of a surrogate pair raises UnicodeEncodeError, which is a ValueError
    return value
