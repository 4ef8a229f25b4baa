"""What a gateway must know about a model, read from the files beside its weights."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DESCRIBING_FILES = ("config.json", "tokenizer_config.json", "chat_template.jinja")
DEFAULT_CONTEXT_TOKENS = 2048


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
    """
    config = _object(files.get("config.json"))
    tokenizer = _object(files.get("tokenizer_config.json"))
    template = files.get("chat_template.jinja") or tokenizer.get("chat_template")
    own = config.get("max_position_embeddings")
    bounds = [bound for bound in (own, max_model_len) if isinstance(bound, int) and bound > 0]
    return Description(
        chat_template=template if isinstance(template, str) else None,
        bos_token=_token(tokenizer.get("bos_token")),
        eos_token=_token(tokenizer.get("eos_token")),
        context_tokens=min(bounds) if bounds else DEFAULT_CONTEXT_TOKENS,
    )


def _object(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _token(value: Any) -> str | None:
    """Return a special token's text; tokenizers write it plain or as an object with `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None
