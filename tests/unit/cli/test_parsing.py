"""Parsing what a user types for a rollback, a drill or a replay."""

from datetime import timedelta

import pytest

from clients.cli.commands.drill import parse_drill_duration
from clients.cli.output import CommandError, Exit
from clients.cli.parsing import (
    check_model,
    parse_duration,
    parse_fault,
)
from contracts.facts import DrillFault
from decisions.rollback.drills import describe_fault
from testbed.factories import after


@pytest.mark.parametrize("text", ["Support", "../x", "a b", "a*", "-", "x" * 64, ""])
def test_an_invalid_model_name_never_reaches_the_bus(text):
    with pytest.raises(CommandError, match=r"the model name .* is not valid") as refused:
        check_model(text)
    assert refused.value.code is Exit.USAGE


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("1.5m", 90), ("1h", 3600), ("7d", 604_800), ("0.5s", 0.5)])
def test_durations_are_parsed(text, seconds):
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "30", "s", "-5s", "5 m", "1h30m", "0s", "1w", "1e3s", "nan"])
def test_an_invalid_duration_is_refused_as_usage(text):
    with pytest.raises(CommandError, match=r"the duration .* is not valid") as refused:
        parse_duration(text)
    assert refused.value.code is Exit.USAGE


def test_a_duration_beyond_the_range_of_datetime_is_capped():
    assert after(0) - parse_duration("9" * 400 + "d") < after(0) - timedelta(days=36_000)


def test_a_drill_lasts_an_hour_at_most():
    assert parse_drill_duration("60m") == timedelta(hours=1)
    for text in ("61m", "1.01h", "1d"):
        with pytest.raises(CommandError, match="the limit is 1 h 0 min") as refused:
            parse_drill_duration(text)
        assert refused.value.code is Exit.USAGE


@pytest.mark.parametrize(
    ("items", "fault"),
    [
        (["delay_ms=800"], DrillFault(delay_ms=800)),
        (["error_ratio=0.5", "delay_ms=10"], DrillFault(error_ratio=0.5, delay_ms=10)),
        (["garble"], DrillFault(garble=True)),
        (["answer=empty"], DrillFault(answer="empty")),
        (["answer=refusal"], DrillFault(answer="refusal")),
        (["answer=cut"], DrillFault(answer="cut")),
        (["token_delay_ms=50", "queue_delay_ms=800"], DrillFault(token_delay_ms=50, queue_delay_ms=800)),
        (["output_tokens=0"], DrillFault(output_tokens=0)),
        (["logprob_shift=-2.5"], DrillFault(logprob_shift=-2.5)),
        (["nan_logits"], DrillFault(nan_logits=True)),
    ],
)
def test_faults_are_parsed_and_described_as_they_are_typed(items, fault):
    assert parse_fault(items) == fault
    assert parse_fault(describe_fault(fault).split()) == fault


@pytest.mark.parametrize(
    "items",
    [
        ["delay=800"],
        ["delay_ms"],
        ["delay_ms="],
        ["delay_ms=fast"],
        ["delay_ms=-1"],
        ["delay_ms=1.5"],
        ["error_ratio=1.5"],
        ["error_ratio=nan"],
        ["garble=yes"],
        ["answer=rude"],
        ["nan_logits=true"],
        ["token_delay_ms=-1"],
        ["output_tokens=-1"],
        ["output_tokens"],
        ["logprob_shift=1"],
        ["logprob_shift=0"],
        [""],
        ["garble", "garble"],
        ["delay_ms=0"],
        ["error_ratio=0"],
        [],
    ],
)
def test_an_invalid_fault_is_refused_as_usage(items):
    with pytest.raises(CommandError) as refused:
        parse_fault(items)
    assert refused.value.code is Exit.USAGE


def test_an_empty_fault_is_described():
    assert describe_fault(DrillFault()) == "nothing"
