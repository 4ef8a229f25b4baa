"""Changes that give an installation what files declare: idempotent, nothing removed unless it was asked for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.cli.declared_state import ORDER, Change, Difference, compare, plan_changes, undeclared

KEYS = st.tuples(st.sampled_from(ORDER), st.sampled_from("abc"))
DATA = st.fixed_dictionaries(
    {"models": st.lists(st.sampled_from("xyz"), max_size=2), "limit": st.none() | st.integers(0, 2)}
)
STATES = st.dictionaries(KEYS, DATA, max_size=6)


def applied(actual, declared, changes):
    """The installation after the changes; what a person is to issue, the person issued."""
    after = dict(actual)
    for change in changes:
        key = (change.kind, change.name)
        if change.action == "remove":
            del after[key]
        else:
            after[key] = declared[key]
    return after


@given(STATES, STATES, st.sets(st.sampled_from(ORDER)))
def test_a_second_run_changes_nothing_and_only_what_was_asked_for_is_removed(declared, actual, prune):
    changes = plan_changes(declared, actual, prune=prune)
    after = applied(actual, declared, changes)
    assert plan_changes(declared, after, prune=prune) == []
    assert {key: after[key] for key in declared} == declared
    removed = set(actual) - set(after)
    assert removed == {key for key in actual if key not in declared and key[0] in prune}
    assert set(undeclared(declared, after)) == set(actual) - set(declared) - removed


@given(STATES, STATES)
def test_teams_come_before_what_names_them_and_go_after_it(declared, actual):
    changes = plan_changes(declared, actual, prune=ORDER)
    made = [ORDER.index(each.kind) for each in changes if each.action != "remove"]
    removed = [ORDER.index(each.kind) for each in changes if each.action == "remove"]
    assert (made, removed) == (sorted(made), sorted(removed, reverse=True))
    assert {each.action for each in changes if each.kind == "ApiKey"} <= {"issue", "update", "remove"}


@given(DATA, DATA)
def test_there_is_a_difference_exactly_if_the_values_differ(before, after):
    assert (compare(before, after) == ()) == (before == after)


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 2}}, "a.b: 1 -> 2"),
        ({"a": [{"b": 1, "c": None}]}, {"a": [{"b": 2, "c": None}]}, "a.0.b: 1 -> 2"),
        ({"a": [{"b": None}]}, {"a": []}, "a: [{}] -> []"),
        ({}, {"a": "x"}, 'a: none -> "x"'),
    ],
)
def test_differences_are_shown_by_their_path(before, after, line):
    assert [str(each) for each in compare(before, after)] == [line]


def test_an_api_key_that_there_is_not_is_left_to_a_person():
    assert plan_changes({("ApiKey", "web"): {}}, {}) == [Change("issue", "ApiKey", "web")]
    assert plan_changes({("Policy", "bot"): {"a": 1}}, {("Policy", "bot"): {"a": 2}}) == [
        Change("update", "Policy", "bot", (Difference("a", 2, 1),), {"a": 2})
    ]
