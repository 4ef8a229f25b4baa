"""Runbooks: whatever has a code or raises an alert has exactly one page that says what to do."""

import re
from collections import Counter
from typing import get_args

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from clients.cli.main import app
from contracts.codes import Code
from contracts.facts.watch import AlertKind
from decisions.alerts import RUNBOOKS
from tests.kit.wiring import ROOT

FOLDER = ROOT / "docs" / "runbooks"
FAMILIES = ("admission", "checkpoint", "variant", "serving", "release", "rollback")
ENTRY = re.compile(r"^- `([a-z_]+)`: (.+(?:\n  .+)*)", re.MULTILINE)
NAMED = re.compile(r"docs/runbooks/([\w{}.-]+)\.md")
LINK = re.compile(r"\]\(([\w.-]+\.md)\)")
COMMAND = re.compile(r"`(slipway [^`]+)`")


def page(name):
    return (FOLDER / f"{name}.md").read_text()


def entries():
    """Return each entry of the families' pages: page, code, text."""
    return [(name, *item) for name in FAMILIES for item in ENTRY.findall(page(name))]


def pages():
    return sorted(path.stem for path in FOLDER.glob("*.md"))


def test_every_code_stands_in_exactly_one_page():
    assert Counter(code for _, code, _ in entries()) == Counter(get_args(Code))


@pytest.mark.parametrize(("name", "code", "text"), entries())
def test_an_entry_says_how_to_see_it_and_what_to_do(name, code, text):
    assert COMMAND.search(text), f"{name}: {code} names no command"
    assert text.rstrip().endswith("."), f"{name}: {code}"
    assert len(text.splitlines()) <= 3, f"{name}: {code} is longer than three lines"


def test_every_kind_of_alert_has_its_page_and_the_monitor_names_it():
    assert {kind: f"docs/runbooks/{kind}.md" for kind in get_args(AlertKind)} == RUNBOOKS
    for kind in get_args(AlertKind):
        assert page(kind).startswith(f"# Alert: {kind}\n")


def test_every_page_that_code_names_exists():
    named = Counter()
    for folder in ("contracts", "decisions", "shared", "services", "clients", "deploy", "examples"):
        for path in [*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.md")]:
            named.update(NAMED.findall(path.read_text()))
    whole = {name for name in named if "{" not in name}
    assert len(whole) < len(named), "the pages of alerts are named by their kind"
    assert whole - set(pages()) == set()
    assert {name for name in named if "{" in name} <= {"{kind}", "{alert.kind}"}, "only kinds of alerts are filled in"


def test_the_index_lists_every_page_and_links_lead_somewhere():
    assert Counter(LINK.findall(page("README"))) == Counter(f"{name}.md" for name in pages() if name != "README")
    dead = [(name, link) for name in pages() for link in LINK.findall(page(name)) if not (FOLDER / link).exists()]
    assert dead == []


def problem_of(line):
    """Return what is wrong with a command line that a runbook gives; None if a person could type it."""
    command = get_command(app)
    arguments = line.split()[1:]
    while isinstance(command, TyperGroup):
        if command.invoke_without_command and (not arguments or arguments[0].startswith("-")):
            break
        if not arguments or arguments[0] not in command.commands:
            return f"{line}: no such command"
        command = command.commands[arguments.pop(0)]
    known = {option for param in command.params for option in (*param.opts, *param.secondary_opts)}
    unknown = [argument for argument in arguments if argument.startswith("-") and argument not in known]
    return f"{line}: no option {unknown[0]}" if unknown else None


def test_commands_that_runbooks_name_can_be_typed():
    lines = {line for name in pages() for line in COMMAND.findall(page(name))}
    assert lines
    assert [problem for line in sorted(lines) if (problem := problem_of(line))] == []
    assert problem_of("slipway quarantine shift MODEL")
    assert problem_of("slipway rollback MODEL --because …")
