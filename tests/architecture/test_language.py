"""The words of code and documents: docstrings say what comes back, names say what they hold, no metaphors.

The rules are in CONTRIBUTING.md, "Language". `python -m tests.architecture.test_language` prints what each rule finds.
"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.architecture.test_files import ROOT, committed

FIRST_WORDS = re.compile(r"(?:Gives?|Tells?|Says?|Hears?)\b")
FILLERS = frozenset({"one", "found", "said", "mine", "told", "heard"})
CHATTER = re.compile(r"_*(?:say|says|said|hear|hears|heard|tell|tells|told)(?:_|$)")
"""Functions publish, receive, ask or print; none says, hears or tells."""
METAPHOR = re.compile(
    r"(?<![a-z])(?:roads?|doors?|houses?|shel(?:f|ves)|rooms?|way[ _]back|leads?[ _]back|barred|bur(?:y|ied)|troubles?|(?:un)?wanted|mend(?:ed|ing|s)?|fates?|nobody's business)(?![a-z])",
    re.IGNORECASE,
)
"""Underscores count as the end of a word, so that names are searched as well."""
QUOTED = re.compile(r"`[^`\n]*`")
"""A name that a document quotes: it is checked where it is defined (docs/adr/0010 lists names that are gone)."""
HERE = "tests/architecture"

PERSONS = re.compile(r"\b(?:nobody|somebody|whoever)\b", re.IGNORECASE)
NO_PERSONS = ("benchmarks/", "clients/", "contracts/", "decisions/", "deploy/", "services/", "shared/")
"""Where code, as all documents, names identities, services and operators."""
TEXTS = {"services/benchmarker/prompts.py"}
"""What a model is asked, in the words of its users."""

RULES = ("docstrings", "names", "functions", "metaphors", "persons")


def folder_of(path: Path) -> str:
    """Return the folder by which a file is listed: a service, a package of shared/, a kind of tests."""
    parts = path.relative_to(ROOT).parts[:-1]
    depth = 3 if parts[:2] in (("clients", "cli"), ("tests", "unit")) else 2
    return "/".join(parts[:depth]) or "."


def python_sources() -> list[Path]:
    return [path for path in committed("*.py") if folder_of(path) != HERE]


def documents() -> list[Path]:
    return [path for path in committed("*.md") if path.name != "CHANGELOG.md"]


def bound_names(tree: ast.AST) -> list[str]:
    """Return the names that code binds: arguments, targets of assignments, loops and comprehensions."""
    stored = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    return stored + [node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)]


def function_names(tree: ast.AST) -> list[str]:
    """Return the names of functions and methods that begin with a forbidden word."""
    functions = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [name for name in functions if CHATTER.match(name)]


def first_words(tree: ast.AST) -> list[str]:
    """Return the first lines of docstrings that begin with a forbidden word."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds)]
    return [text.partition("\n")[0] for text in docstrings if FIRST_WORDS.match(text)]


def findings(rule: str, path: Path) -> list[str]:
    """Return what breaks a rule in a file."""
    text = path.read_text()
    if rule in ("metaphors", "persons"):
        words = METAPHOR if rule == "metaphors" else PERSONS
        return words.findall(QUOTED.sub("", text) if path.suffix == ".md" else text)
    tree = ast.parse(text)
    if rule == "functions":
        return function_names(tree)
    return first_words(tree) if rule == "docstrings" else [name for name in bound_names(tree) if name in FILLERS]


@cache
def broken(rule: str) -> dict[str, list[str]]:
    """Return the findings of a rule, by folder."""
    paths = python_sources()
    if rule == "persons":
        names = {path: path.relative_to(ROOT).as_posix() for path in paths}
        paths = [path for path, name in names.items() if name.startswith(NO_PERSONS) and name not in TEXTS]
    if rule in ("metaphors", "persons"):
        paths = [*paths, *documents()]
    by_folder = {}
    for path in paths:
        for finding in findings(rule, path):
            by_folder.setdefault(folder_of(path), []).append(f"{path.relative_to(ROOT)}: {finding}")
    return by_folder


@pytest.mark.parametrize("rule", RULES)
def test_the_rule_holds(rule):
    assert broken(rule) == {}


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("docstrings", 'def f():\n    """Give what is there."""\n'),
        ("names", "total = sum(one for one in (1, 2))\n"),
        ("names", "def f(said):\n    return said\n"),
        ("functions", "class Bus:\n    async def say(self): ...\n"),
        ("functions", "def _tell_all(): ...\n"),
        ("metaphors", "def open_" + "rooms(): ...\n"),
        ("metaphors", "# the only " + "way back\n"),
        ("metaphors", "class " + "Road: ...\n"),
        ("metaphors", "def " + "bury(): ...\n"),
        ("metaphors", "un" + "wanted = 1\n"),
        ("metaphors", "class Fate: ...\n"),
        ("persons", "# Nobody reads it.\n"),
    ],
)
def test_the_search_finds_what_it_should(rule, text, tmp_path):
    path = tmp_path / "module.py"
    path.write_text(text)
    assert findings(rule, path)


@pytest.mark.parametrize("text", ["broad", "recommends", "roadmap", "headroom", "troubleshooting"])
def test_parts_of_other_words_are_left_alone(text, tmp_path):
    path = tmp_path / "module.py"
    path.write_text(f"# {text}\n")
    assert findings("metaphors", path) == []


if __name__ == "__main__":
    for each in RULES:
        print(each, broken(each))
