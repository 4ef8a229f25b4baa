"""GitHub's Markdown, adapted for Python-Markdown; and tables."""

import re
from collections.abc import Iterable, Sequence

_FENCE = re.compile(r"^(?P<indent> *)(?P<marks>`{3,}|~{3,})")
_ITEM = re.compile(r"^(?P<indent> *)(?:[-*+]|\d+\.) +\S")
_ROW = re.compile(r"^\|.*\|\s*$")
_RULE = re.compile(r"^\|[\s:|-]+\|\s*$")


def separate_blocks(text: str) -> str:
    """Return the text with an empty line before each list, table and fence that follows a paragraph directly."""
    lines: list[str] = []
    closing: str | None = None
    given = text.split("\n")
    for line, following in zip(given, [*given[1:], ""], strict=True):
        if closing is not None:
            lines.append(line)
            if line.strip() == closing:
                closing = None
                if following.strip():
                    lines.append("")
            continue
        previous = lines[-1] if lines else ""
        fence = _FENCE.match(line)
        if fence:
            closing = fence["marks"]
        if previous.strip() and (fence or _begins_list(previous, line) or _begins_table(previous, line, following)):
            lines.append("")
        lines.append(line)
    return "\n".join(lines)


def _begins_list(previous: str, line: str) -> bool:
    """Return whether a line begins a list directly after a paragraph."""
    item = _ITEM.match(line)
    return item is not None and not item["indent"] and not _ITEM.match(previous) and not previous.startswith(" ")


def _begins_table(previous: str, line: str, following: str) -> bool:
    return bool(_ROW.match(line) and _RULE.match(following) and not _ROW.match(previous))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table, with line breaks and vertical bars in cells escaped."""
    lines = [_row(head), _row(["---"] * len(head)), *(_row(row) for row in rows)]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def code(text: object) -> str:
    """Return a text as code."""
    return f"`{text}`"


def escape(text: str) -> str:
    """Return a text with `<` escaped, except in code."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in parts)
