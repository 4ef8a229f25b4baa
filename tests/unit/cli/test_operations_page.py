"""The operations page: its commands are valid, its NATS filters select the events that it names."""

import re
import shlex

import pytest
from typer.core import TyperGroup
from typer.exceptions import TyperException
from typer.main import get_command

from clients.cli.main import app
from clients.cli.output import EXIT_CODES
from contracts import facts as f
from contracts.services import EVENTS, stream_of
from testbed.factories import event
from tests.kit.wiring import ROOT

PAGE = (ROOT / "docs" / "operations.md").read_text()
BLOCKS = "\n".join(re.findall(r"^```\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)).splitlines()
TYPED = sorted({line for line in BLOCKS if line.startswith("slipway ")})
FILTERS = sorted(set(re.findall(r"'(slipway\.[^']+)'", PAGE)))


def parse(line):
    """Read a command line as the command does, without running it; KeyError for a command that there is not."""
    command, arguments = get_command(app), shlex.split(line, comments=True)[1:]
    while isinstance(command, TyperGroup):
        command = command.commands[arguments.pop(0)]
    command.make_context(command.name, arguments)
    return command.name


@pytest.mark.parametrize("line", TYPED)
def test_every_command_of_the_page_is_valid(line):
    assert parse(line) == line.split()[2 if line.split()[1] == "quarantine" else 1]


def test_the_page_shows_every_command_of_operations():
    releases = {"pause", "resume", "promote", "reject", "retry"}
    assert {line.split()[1] for line in TYPED} == {
        "alerts",
        "rollback",
        "quarantine",
        "drill",
        "replay",
        "gc",
        "golden",
    } | releases


@pytest.mark.parametrize(
    "line", ["slipway rollback support-bot", "slipway drill support-bot --fault", "slipway alarms"]
)
def test_an_invalid_command_would_be_noticed(line):
    with pytest.raises((TyperException, KeyError)):
        parse(line)


def caught(pattern):
    """Return the facts, with their environment, that a NATS filter catches."""
    regex = re.escape(pattern).replace(r"\*", r"[^.]+").replace(r">", r".+")
    everything = [event(kind, environment=where) for kind in f.FACTS.values() for where in ("production", "staging")]
    return {
        (candidate.type, candidate.environment)
        for candidate in everything
        if re.fullmatch(regex, candidate.nats_subject)
    }


def test_each_filter_catches_its_facts_and_those_of_its_environment_alone():
    alerts = {kind.TYPE for kind in (f.AlertRaised, f.AlertUpdated, f.AlertResolved)}
    steps = (f.RollbackStarted, f.RollbackCompleted, f.RollbackFailed, f.RollbackOrdered, f.RollbackReported)
    rollbacks = {kind.TYPE for kind in steps}
    assert {pattern: caught(pattern) for pattern in FILTERS} == {
        "slipway.alert.>": {(name, "production") for name in alerts},
        "slipway.alert.*.v1.support-bot.*": {(name, "production") for name in alerts},
        "slipway.rollback.>": {(name, "production") for name in rollbacks},
        "slipway.staging.alert.>": {(name, "staging") for name in alerts},
    }
    assert {stream_of(kind) for kind in (f.AlertRaised, f.AlertUpdated, f.AlertResolved)} == {EVENTS}
    assert f"consumer add {EVENTS} " in PAGE


def test_the_exit_codes_of_the_page_are_those_of_the_command():
    assert re.findall(r"\b(\d) ", EXIT_CODES) == re.findall(r"\b(\d) ", PAGE.split("## ")[0])
