"""What people type when they order the way back, a drill or a replay."""

from datetime import timedelta

import pytest

from clients.cli.commands.drill import parse_lasting
from clients.cli.commands.quarantine import check_word
from clients.cli.output import Exit, Refused
from clients.cli.parsing import (
    check_model,
    describe_fault,
    parse_fault,
    parse_number,
    parse_span,
    parse_target,
    target_of,
)
from contracts.facts import DrillFault
from tests.kit.factories import after, target


@pytest.mark.parametrize("text", ["support-bot.v7.int8", "a.v0.bf16", "a-b-2.v12.gptq-int4"])
def test_a_target_is_read_as_it_is_written(text):
    assert str(parse_target(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "support-bot",
        "support-bot@v7",
        "support-bot.v7",
        "support-bot.7.int8",
        "-.v1.int8",
        "a-.v1.int8",
        "a.v1.int9",
        "fp_a.v1.int8",
        "a.v1.int8.0a1b2c3d",
        "",
    ],
)
def test_what_is_no_target_is_refused_as_usage(text):
    with pytest.raises(Refused, match=r"MODEL\.vN\.variant") as refused:
        parse_target(text)
    assert refused.value.code is Exit.USAGE


def test_a_target_of_another_model_is_refused():
    assert target_of("support-bot", "support-bot.v7.int8") == target(7)
    with pytest.raises(Refused, match="no target of other"):
        target_of("other", "support-bot.v7.int8")


@pytest.mark.parametrize("text", ["Support", "../x", "a b", "a*", "-", "x" * 64, ""])
def test_what_can_be_no_model_never_reaches_the_bus(text):
    with pytest.raises(Refused, match="no model name") as refused:
        check_model(text)
    assert refused.value.code is Exit.USAGE


@pytest.mark.parametrize(("text", "number"), [("2", 2), ("v2", 2), ("0", 0), ("v12", 12)])
def test_version_numbers_are_read(text, number):
    assert parse_number(text) == number


@pytest.mark.parametrize("text", ["", "v", "-1", "2.0", "support-bot@v2"])
def test_what_is_no_version_number_is_refused(text):
    with pytest.raises(Refused, match="no version"):
        parse_number(text)


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("1.5m", 90), ("1h", 3600), ("7d", 604_800), ("0.5s", 0.5)])
def test_spans_of_time_are_read(text, seconds):
    assert parse_span(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "30", "s", "-5s", "5 m", "1h30m", "0s", "1w", "1e3s", "nan"])
def test_what_is_no_span_of_time_is_refused_as_usage(text):
    with pytest.raises(Refused, match="no span of time") as refused:
        parse_span(text)
    assert refused.value.code is Exit.USAGE


def test_a_span_beyond_all_calendars_is_a_long_span_and_not_a_crash():
    assert after(0) - parse_span("9" * 400 + "d") < after(0) - timedelta(days=36_000)


def test_a_drill_lasts_an_hour_at_most():
    assert parse_lasting("60m") == timedelta(hours=1)
    for text in ("61m", "1.01h", "1d"):
        with pytest.raises(Refused, match="at most 1 h 0 min") as refused:
            parse_lasting(text)
        assert refused.value.code is Exit.USAGE


@pytest.mark.parametrize(
    ("items", "fault"),
    [
        (["delay_ms=800"], DrillFault(delay_ms=800)),
        (["error_ratio=0.5", "delay_ms=10"], DrillFault(error_ratio=0.5, delay_ms=10)),
        (["garble"], DrillFault(garble=True)),
        (["answer=empty"], DrillFault(answer="empty")),
        (["answer=refusal"], DrillFault(answer="refusal")),
    ],
)
def test_faults_are_read_and_named_as_they_are_typed(items, fault):
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
        [""],
        ["garble", "garble"],
        ["delay_ms=0"],
        ["error_ratio=0"],
        [],
    ],
)
def test_what_is_no_fault_is_refused_as_usage(items):
    with pytest.raises(Refused) as refused:
        parse_fault(items)
    assert refused.value.code is Exit.USAGE


def test_no_fault_at_all_has_a_name_too():
    assert describe_fault(DrillFault()) == "nothing"


def test_a_quarantine_is_named_by_target_or_version():
    assert (
        check_word("support-bot.v7.int8")
        == check_word("support-bot@v7")
        == check_word("support-bot@7")
        == "support-bot"
    )
    with pytest.raises(Refused, match="MODEL@vN") as refused:
        check_word("support-bot")
    assert refused.value.code is Exit.USAGE
