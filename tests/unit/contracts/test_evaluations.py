"""Evaluations of a policy are checked when they are written, and errors say what to do."""

import json

import pytest
from pydantic import ValidationError

from contracts.evaluations import Evaluations, compile_pattern
from decisions.evaluations.rows import ROWS, read_rows

ROW = {"messages": [{"role": "user", "content": "Hi"}], "expected": "Hello"}


def declared(*, scorers=({"kind": "equals"},), bounds=({"max_drop": 0.05},), **other):
    evaluation = {"name": "orders", "scorers": list(scorers), "bounds": list(bounds), **other.pop("evaluation", {})}
    return Evaluations.model_validate({"sets": [evaluation], **other})


def refused(**given):
    with pytest.raises(ValidationError) as caught:
        declared(**given)
    return str(caught.value)


def test_a_whole_declaration_reads_back():
    kinds = [
        {"kind": "equals", "compare": "json"},
        {"kind": "contains", "excludes": ["guarantee"]},
        {"kind": "regex", "pattern": "^[A-Z]+$"},
        {"kind": "json_schema", "definition": {"type": "object"}},
        {"kind": "tool_call", "arguments": "include"},
        {"kind": "language", "language": "de"},
        {"kind": "length", "max_chars": 400},
        {"kind": "refusal", "name": "safety", "refuses": True},
    ]
    bounds = [
        {"scorer": "equals", "max_drop": 0.03},
        {"scorer": "equals", "slice": "*", "max_drop": 0.2, "undecided": "continue"},
        {"scorer": "safety", "min_value": 0.98},
    ]
    whole = declared(scorers=kinds, bounds=bounds)
    assert Evaluations.model_validate_json(whole.model_dump_json()) == whole
    assert [scorer.label for scorer in whole.sets[0].scorers][-1] == "safety"
    assert Evaluations() == Evaluations.model_validate({})


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"bounds": [{}]}, "needs min_value, max_drop or max_drop_from_anchor"),
        ({"bounds": [{"max_drop": 5}]}, "less than 1"),
        ({"bounds": [{"max_drop": 0}]}, "greater than 0"),
        ({"bounds": [{"max_drop": 0.1, "scorer": "language"}]}, "there are equals"),
        ({"bounds": [{"max_drop": 0.1}, {"min_value": 0.8}]}, "join the two bounds"),
        (
            {"bounds": [{"max_drop": 0.1}], "scorers": [{"kind": "equals"}, {"kind": "language"}]},
            "needs scorer, one of",
        ),
        ({"scorers": [{"kind": "equals"}, {"kind": "equals"}]}, "give one of them another name"),
        ({"scorers": [{"kind": "regex", "pattern": "(?=a)"}]}, "without look-around"),
        ({"scorers": [{"kind": "regex", "pattern": r"(a)\1"}]}, "backreferences"),
        ({"scorers": [{"kind": "regex", "pattern": "(a"}]}, "unclosed group"),
        ({"scorers": [{"kind": "length", "min_chars": 9, "max_chars": 3}]}, "no answer can be both"),
        ({"scorers": [{"kind": "judge"}]}, "judge"),
        ({"scorers": []}, "at least 1"),
        ({"scorers": [{"kind": "language", "language": "german"}]}, "pattern"),
        ({"scorers": [{"kind": "equals", "ignorecase": True}]}, "ignorecase"),
        (
            {"scorers": [{"kind": "json_schema", "definition": {"description": "x" * 40_000}}]},
            "put schemas into the rows",
        ),
        ({"evaluation": {"max_rows": 3}}, "greater than or equal to 20"),
    ],
)
def test_an_error_says_what_is_wrong(given, named):
    assert named in refused(**given)


def test_two_evaluations_of_one_name_are_refused():
    one = {"name": "orders", "scorers": [{"kind": "equals"}]}
    with pytest.raises(ValidationError, match="declared more than once"):
        Evaluations.model_validate({"sets": [one, one]})


def test_a_pattern_is_searched_for():
    assert compile_pattern(r"\d+").isinstance_python("order 73")
    assert not compile_pattern(r"^\d+$").isinstance_python("order 73")


def lines(*rows):
    return "\n".join(json.dumps(row) for row in rows).encode()


def test_rows_are_read():
    first, second = read_rows(
        lines({**ROW, "slice": "greetings", "expect": {"language": "en"}}, {"prompt": "Bye", "expected": None})
        + b"\n\n"
    )
    assert (first.number, first.slice, first.last) == (1, "greetings", "Hi")
    assert dict(first.expectations) == {"language": "en", "": "Hello"}
    assert second.messages == ({"role": "user", "content": "Bye"},)
    assert second.expectations == (("", None),)
    assert read_rows(lines({"prompt": "Bye"}))[0].expectations == ()
    assert read_rows(lines({"prompt": "Bye", "completion": "Ciao"}))[0].expectations == (("", "Ciao"),)
    assert read_rows(lines({"messages": [{"role": "user", "content": [{"type": "text"}]}]}))[0].last == ""
    assert len(read_rows(lines(*[ROW] * (ROWS + 5)))) == ROWS


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"", "no row"),
        (b"{", "line 1: "),
        (b"\xff", "line 1: "),
        (lines([1]), "no object"),
        (lines(ROW, {}), "line 2: messages are missing"),
        (lines({"messages": [{"content": "Hi"}]}), "has no role"),
        (lines({"messages": [{"role": "assistant", "content": "Hi"}]}), "put what it should answer into expected"),
        (lines({**ROW, "answer": "Hello"}), "'answer', which is unknown"),
        (lines({**ROW, "expect": "Hello"}), "expect is no object"),
        (lines({**ROW, "tools": {}}), "tools is no list"),
        (lines({**ROW, "slice": 3}), "slice is no name"),
        (lines({**ROW, "slice": "*"}), "slice is no name"),
        (lines({**ROW, "expected": "x" * 70_000}), "shorten it"),
        (b"[" * 60_000, "nested too deeply"),
        (lines(*[{**ROW, "slice": f"slice {number}"} for number in range(33)]), "join some"),
    ],
)
def test_a_set_that_cannot_be_read_says_where(data, named):
    with pytest.raises(ValueError, match=r"line|row|slices") as caught:
        read_rows(data)
    assert named in str(caught.value)
