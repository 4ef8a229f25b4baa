"""Whose doing a failed request was: the table is total, and only the target's failures are evidence against it."""

import ast
from pathlib import Path
from typing import get_args

import pytest

from contracts.codes import Code
from contracts.vocabulary import Party
from decisions.evidence.attribution import ATTRIBUTION, ErrorKind, as_error_kind, attribute, is_excused, is_failure
from decisions.evidence.hard_failures import Failures, note_failures
from decisions.evidence.triggers import observe
from services.gateway.domain.errors import UPSTREAM_STATUS
from testbed import factories as f
from tests.unit.monitor import factories as m

ROOT = Path(__file__).resolve().parents[3]
PATHS = (
    *(ROOT / "services/gateway").rglob("*.py"),
    ROOT / "shared/serving/inference.py",
    ROOT / "shared/serving/chat_templates.py",
)
NOT_OF_REQUESTS = {"bus_unavailable", "malformed_event"}
"""Raised by the gateway where no request is being answered."""
ERRORS = f.trigger(metric="error_ratio", threshold=0.02)
SLOW = (f.trigger(metric="ttft_ms", threshold=1.0), f.trigger(metric="e2e_ms", threshold=1.0))


def kinds_in(path: Path) -> set[str]:
    """Find every code that a file raises, answers with or records."""
    kinds = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        where = {"Transient": 0, "Permanent": 0, "bad_request": 2}.get(name)
        given = [word.value for word in node.keywords if word.arg in {"code", "error"}]
        given += node.args[where : where + 1] if where is not None else []
        kinds |= {
            leaf.value
            for argument in given
            for leaf in ast.walk(argument)
            if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str)
        }
    return kinds


def test_every_kind_that_any_path_gives_has_its_party():
    kinds = set().union(*(kinds_in(path) for path in PATHS)) - NOT_OF_REQUESTS
    assert len(kinds) > 15, "the search reads the codes"
    assert kinds <= set(ATTRIBUTION)
    assert set(UPSTREAM_STATUS) <= set(ATTRIBUTION)
    assert set(ATTRIBUTION) == set(get_args(ErrorKind))
    assert set(ATTRIBUTION.values()) == set(get_args(Party))


@pytest.mark.parametrize("code", [*get_args(Code), "what is this", ""])
def test_every_code_of_an_error_from_below_becomes_a_kind_of_the_table(code):
    assert as_error_kind(code) in ATTRIBUTION
    assert as_error_kind(code) == (code if code in ATTRIBUTION else "internal_error")


@pytest.mark.parametrize("caused_by", [None, *get_args(Party)])
@pytest.mark.parametrize("kind", [*ATTRIBUTION, "of_the_future"])
def test_only_what_the_target_caused_is_evidence_against_it(kind, caused_by):
    bad = m.record(error=kind, caused_by=caused_by, ttft_ms=None, features=None, e2e_ms=9000.0)
    counts = ATTRIBUTION.get(kind) == "target" and caused_by in {None, "target"}
    assert (observe(ERRORS, bad) is True) is counts
    assert [observe(trigger, bad) is True for trigger in SLOW] == [counts, counts]
    after = note_failures(Failures(), [bad], [bad])
    assert (after.errors.open.bad, after.empties.open.counts) == (counts, {})
    assert (is_failure(bad), is_excused(bad)) == (counts, not counts)
    assert (attribute(kind, caused_by) == "target") is counts


def test_an_answer_is_neither_a_failure_nor_excused():
    assert attribute(None) is None
    assert not is_failure(m.record())
    assert not is_excused(m.record())


@pytest.mark.parametrize("caused_by", ["caller", "gateway", "infrastructure"])
def test_a_request_without_an_answer_through_another_is_no_evidence_for_the_target_either(caused_by):
    refused = m.record(error=None, caused_by=caused_by, features=None, ttft_ms=None)
    assert observe(ERRORS, refused) is None
    assert note_failures(Failures(), [refused], [refused]) == Failures()
