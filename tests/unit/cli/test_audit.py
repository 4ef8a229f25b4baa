"""The end of a team's audit: what no signed part holds yet is a warning while it is new, and a failure after an hour."""

from datetime import timedelta

import pytest

from clients.cli.commands.audit import OVERDUE, TeamAudit, _end_waiting
from clients.cli.output import CommandError, Exit
from contracts.audit import AuditEntry
from contracts.vocabulary import digest_of
from shared.runtime.clock import SystemClock


def of_team(*ages: timedelta, waiting: int) -> TeamAudit:
    entries = tuple(
        AuditEntry(
            at=SystemClock().now() - age,
            source=f"SLIPWAY_ORDERS/{index}",
            kind="order",
            action="rollback.ordered",
            index=index,
            previous=digest_of(b""),
        )
        for index, age in enumerate(ages, 1)
    )
    return TeamAudit(readings=(), entries=entries, waiting=waiting)


def test_what_is_in_no_part_yet_is_a_warning(capsys):
    _end_waiting(of_team(timedelta(days=9), OVERDUE / 2, timedelta(0), waiting=2))
    assert "2 of these are in no signed part of the log yet: the newest" in capsys.readouterr().err


def test_a_log_that_waits_for_nothing_is_silent(capsys):
    _end_waiting(of_team(timedelta(days=9), waiting=0))
    assert capsys.readouterr() == ("", "")


def test_without_parts_for_an_hour_the_command_fails():
    with pytest.raises(CommandError, match="parts were removed: ask an administrator") as caught:
        _end_waiting(of_team(OVERDUE * 2, timedelta(0), waiting=2))
    assert caught.value.code == Exit.FAILED
