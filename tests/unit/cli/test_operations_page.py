"""The operations page: its NATS filters select the events that it names, its exit codes are those of the command."""

import re

from clients.cli.output import EXIT_CODES
from contracts import facts as f
from contracts.services import EVENTS, stream_of
from testbed.factories import event
from tests.kit.wiring import ROOT

PAGE = (ROOT / "docs" / "operations.md").read_text()
FILTERS = sorted(set(re.findall(r"'(slipway\.[^']+)'", PAGE)))


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
    steps = (f.RollbackStarted, f.RollbackCompleted, f.RollbackFailed, f.RollbackOrdered)
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
