"""Texts from outside inside Markdown and YAML: shown as they are, never read as markup."""

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

CELL_CHARS: Final = 500
"""A longer text from outside ends with an ellipsis."""
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"}
_PLAIN_KEY = re.compile(r"[a-z][a-z_-]*[a-z]", re.ASCII)
_RESERVED = frozenset({"true", "false", "null", "yes", "no", "on", "off"})
"""Words that YAML takes for other values than texts."""
_ESCAPED = frozenset("\\`*_[]|~$")


def inline(text: str) -> str:
    """Return a text as part of a line of Markdown: one line, without markup, links, HTML or invisible characters.

    Nothing is shown as `-`: a row of empty cells would end a table.
    """
    plain = " ".join("".join(_visible(text)).split()) or "-"
    if len(plain) > CELL_CHARS:
        plain = plain[: CELL_CHARS - 1] + "…"
    escaped = "".join(
        _ENTITIES.get(character, f"\\{character}" if character in _ESCAPED else character) for character in plain
    )
    return escaped.replace("://", "&#58;//").replace("www.", "www&#46;").replace("WWW.", "WWW&#46;")


def _visible(text: str) -> Iterator[str]:
    """Return the characters without controls, formats (which reorder text), surrogates and private ones."""
    for character in text:
        category = unicodedata.category(character)
        if category in ("Zs", "Zl", "Zp") or character in "\t\n\r":
            yield " "
        elif not category.startswith("C"):
            yield character


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of Markdown; cells are Markdown already."""
    lines = [_row(head), _row(["---"] * len(head)), *(_row(row) for row in rows)]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def yaml_block(value: Any, indent: int = 0) -> str:
    """Return JSON data as block YAML; every text is quoted, so that none is a number, a tag or a new key."""
    pad = "  " * indent
    if isinstance(value, dict) and value:
        return "".join(f"{pad}{_key(key)}:{_nested(item, indent + 1)}" for key, item in value.items())
    if isinstance(value, list) and value:
        return "".join(f"{pad}-{_nested(item, indent + 1)}" for item in value)
    return f"{pad}{scalar(value)}\n"


def _nested(value: Any, indent: int) -> str:
    if isinstance(value, dict | list) and value:
        return f"\n{yaml_block(value, indent)}"
    return f" {scalar(value)}\n"


def _key(key: str) -> str:
    return key if _PLAIN_KEY.fullmatch(key) and key not in _RESERVED else scalar(key)


def scalar(value: Any) -> str:
    """Return one value as it stands in YAML: JSON, with every character escaped that YAML does not print."""
    if isinstance(value, str):
        value = value.encode(errors="replace").decode()
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if isinstance(value, float) and "." not in text:  # YAML takes 1e-05 for a text
        return text.replace("e", ".0e")
    return "".join(character if _printed(character) else f"\\U{ord(character):08x}" for character in text)


def _printed(each: str) -> bool:
    return each.isprintable() and each != "\ufeff"
