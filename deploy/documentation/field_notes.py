"""Descriptions of a class's fields in the source: the text below each, or its entry below `Attributes:`."""

import ast
import inspect
import re
import textwrap
from functools import cache

_ENTRY = re.compile(r"^    (?P<name>\w+): (?P<text>.*(?:\n {5,}.*)*)", re.MULTILINE)


@cache
def field_notes(kind: type) -> dict[str, str]:
    """Return the note of each field of a class; notes of a base class hold for its subclasses."""
    notes: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.split(".")[0] in ("contracts", "shared", "services", "clients", "decisions"):
            notes |= _own_notes(base)
    return notes


def _own_notes(kind: type) -> dict[str, str]:
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    if not isinstance(tree, ast.ClassDef):
        return {}
    notes = listed_notes(ast.get_docstring(tree) or "")
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str):
            notes[field.target.id] = sentence(below.value.value)
    return notes


def listed_notes(docstring: str) -> dict[str, str]:
    """Return the entries below `Attributes:` of a docstring."""
    _, _, listed = docstring.partition("Attributes:\n")
    return {entry["name"]: sentence(entry["text"]) for entry in _ENTRY.finditer(listed)}


def sentence(text: str) -> str:
    """Return a text on one line that begins with a capital and ends with a full stop."""
    line = " ".join(text.split())
    return line[:1].upper() + line[1:] + ("" if line.endswith((".", ":", "…")) else ".")


def first_line(kind: object) -> str:
    """Return the first line of an object's docstring."""
    return (inspect.getdoc(kind) or "").partition("\n")[0]
