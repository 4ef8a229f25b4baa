"""The committed files of the repository, their texts and syntax trees, and the form of a problem."""

import ast
import re
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@cache
def committed() -> tuple[str, ...]:
    """Return the paths of the committed files, from the root of the repository."""
    command = ["git", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
    return tuple(name for name in listed.split("\0") if name and (ROOT / name).is_file())


@cache
def text(path: str) -> str:
    """Return the text of a file; nothing of a file that is not text."""
    try:
        return (ROOT / path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


@cache
def tree(path: str) -> ast.Module:
    """Return the syntax tree of a Python file."""
    return ast.parse(text(path))


def files(*folders: str, suffix: str = ".py") -> list[str]:
    """Return the committed files below folders that end with a suffix."""
    return [path for path in committed() if path.endswith(suffix) and path.startswith(folders or "")]


def problem(path: str, at: int | ast.AST | re.Match[str], sentence: str) -> str:
    """Return a problem at a line, at a node of the syntax tree, or where a pattern matches the file's text."""
    if isinstance(at, re.Match):
        at = at.string.count("\n", 0, at.start()) + 1
    return f"{path}:{at if isinstance(at, int) else getattr(at, 'lineno', 1)}: {' '.join(sentence.split())}"


def unknown(path: str, pattern: re.Pattern[str], is_known: Callable[[str], bool], what: str) -> Iterator[str]:
    """Yield a problem for each first group of a pattern in a file that is not known."""
    for match in pattern.finditer(text(path)):
        if not is_known(match[1]):
            yield problem(path, match, f"{what} {match[1]!r} does not exist")
