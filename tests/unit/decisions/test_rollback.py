"""What an alert leads to: the whole table, and what it is looked up by."""

import pytest

from contracts.facts import AlertRaised, AlertUpdated
from decisions.rollback.rule import decide, evidence_of, find_behind, has_recovered, replicas_needed
from decisions.routes.edits import Changed, EditRefused, roll_back
from testbed import factories as f

MOVE = "move"
TABLE = {
    # evidence, previous: without a suspended version, with one
    ("answers_nothing", "ready"): (MOVE, MOVE),
    ("answers_nothing", "not_ready"): ("previous_not_ready", "previous_not_ready"),
    ("answers_nothing", "missing"): ("no_previous_target", "no_previous_target"),
    ("trigger", "ready"): (MOVE, "suspended"),
    ("trigger", "too_few"): ("too_few_replicas", "suspended"),
    ("trigger", "not_ready"): ("previous_not_ready", "suspended"),
    ("trigger", "missing"): ("no_previous_target", "suspended"),
    ("none", "ready"): ("stay", "stay"),
    ("none", "too_few"): ("stay", "stay"),
    ("none", "not_ready"): ("stay", "stay"),
    ("none", "missing"): ("stay", "stay"),
}


@pytest.mark.parametrize("suspended", [False, True])
@pytest.mark.parametrize("evidence_and_behind", TABLE)
def test_evidence_the_previous_version_and_a_suspended_one_decide(evidence_and_behind, suspended):
    expected = TABLE[evidence_and_behind][suspended]
    decided = decide(*evidence_and_behind, suspended=suspended, why="because")
    if expected in ("move", "stay"):
        assert (decided.action, decided.code, decided.reason) == (expected, None, "")
    else:
        assert (decided.action, decided.code, decided.reason) == ("page", expected, "because")


@pytest.mark.parametrize(
    ("action", "answers_nothing", "evidence"),
    [
        (None, False, "none"),
        (None, True, "answers_nothing"),
        ("automatic", False, "trigger"),
        ("automatic", True, "answers_nothing"),
        ("manual", False, "none"),
        ("manual", True, "none"),
    ],
)
def test_a_manual_trigger_asks_for_a_person_whatever_it_shows(action, answers_nothing, evidence):
    trigger = f.trigger(action=action) if action is not None else None
    alert = f.fact(AlertRaised, answers_nothing=answers_nothing)
    assert evidence_of(alert, trigger) == evidence


def test_an_update_within_its_limit_moves_nothing_unless_the_target_answers_nothing():
    within = {"value": 0.05, "limit": 0.05, "answers_nothing": False}
    assert has_recovered(f.fact(AlertUpdated, **within))
    assert has_recovered(f.fact(AlertUpdated, **within | {"value": None}))
    assert not has_recovered(f.fact(AlertUpdated, **within | {"value": 0.06}))
    assert not has_recovered(f.fact(AlertUpdated, **within | {"answers_nothing": True}))
    assert not has_recovered(f.fact(AlertRaised, **within))


def test_a_canary_needs_no_version_behind_and_the_active_one_the_next_that_is_not_barred():
    assert find_behind(f.route(previous=None, history=()), f.target(8)) is None
    assert find_behind(f.route(), f.target(7)) == f.served(6)
    missing = find_behind(f.route(canary=None, previous=None, history=()), f.target(7))
    assert isinstance(missing, EditRefused)


def test_a_suspended_version_is_chosen_by_its_number_and_by_an_alert_alone():
    since = f.after(0)
    first = roll_back(f.route(canary=None, history=()), f.target(7), cause_id="a-1", suspended_by=("slow", since))
    assert isinstance(first, Changed)
    again = roll_back(first.route, f.target(6), cause_id="a-2", to_version=7, suspended_by=("dead", since))
    assert isinstance(again, Changed)
    assert (again.route.active, again.route.previous) == (f.served(7), None)
    assert [entry.served.target for entry in again.route.suspended] == [f.target(6)]
    for more in ({"to_version": 7}, {"suspended_by": ("dead", since)}):
        assert isinstance(roll_back(first.route, f.target(6), cause_id="a-2", **more), EditRefused)


@pytest.mark.parametrize(("serving", "needed"), [(1, 1), (2, 1), (3, 2), (4, 2)])
def test_half_of_the_replicas_are_enough(serving, needed):
    assert replicas_needed(f.served(7, endpoints=tuple(f"host-{number}:8001" for number in range(serving)))) == needed
