"""Names of models, versions, releases and targets: one grammar, roles, and what is like a misspelt name."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.cli.output import CommandError, Exit
from clients.cli.releases.names import (
    ROLES,
    Name,
    nearest,
    parse_name,
    parse_version_name,
    served_roles,
    target_in_route,
)
from contracts.routes import CanaryShare, Route
from contracts.vocabulary import MODEL_NAME_PATTERN
from testbed.factories import served, target

RELEASE = "r-0123456789abcdef-2"
ROUTE = Route(
    model="support-bot",
    active=served(2),
    previous=served(1),
    canary=CanaryShare(served=served(3), weight_ratio=0.1),
)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("support-bot", Name("support-bot")),
        ("support-bot@v2", Name("support-bot", 2)),
        ("support-bot@2", Name("support-bot", 2)),
        ("support-bot@active", Name("support-bot", role="active")),
        ("support-bot@previous", Name("support-bot", role="previous")),
        ("support-bot@candidate", Name("support-bot", role="candidate")),
        ("support-bot.v7.int8", Name("support-bot", 7, target=target(7))),
        ("a-b-2.v12.gptq-int4", Name("a-b-2", 12, target=target(12, "gptq-int4", model="a-b-2"))),
        (RELEASE, Name(release_id=RELEASE)),
    ],
)
def test_every_form_is_parsed(text, name):
    assert parse_name(text) == name
    assert parse_name(str(name)) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@v1",
        "../x@v1",
        "support-bot@",
        "support-bot@vx",
        "support-bot@v-1",
        "a b",
        "a@v1@v2",
        "A",
        "a.v1.int9",
        "a\n",
    ],
)
def test_another_form_is_refused_as_usage_with_what_to_write(text):
    with pytest.raises(CommandError, match=r"use 1 to 63|MODEL@") as refused:
        parse_name(text)
    assert refused.value.code is Exit.USAGE


@given(
    st.from_regex(MODEL_NAME_PATTERN, fullmatch=True).filter(lambda name: not name.endswith("\n")),
    st.integers(0, 999_999_999),
)
def test_every_model_and_version_is_read_back_as_it_is_written(model, number):
    for name in (Name(model, number), *(Name(model, role=role) for role in ROLES)):
        assert parse_name(str(name)) == name


@given(st.text(max_size=40))
def test_any_text_is_a_name_or_refused(text):
    with contextlib.suppress(CommandError):
        assert parse_name(str(parse_name(text))) == parse_name(text)


@pytest.mark.parametrize(
    ("text", "what"), [("support-bot", "names a model"), (RELEASE, "names a release"), ("x@y", "is not valid")]
)
def test_what_names_no_version_is_refused_where_one_is_needed(text, what):
    with pytest.raises(CommandError, match=what) as refused:
        parse_version_name(text)
    assert "write MODEL@vN" in str(refused.value)
    assert refused.value.code is Exit.USAGE


def test_roles_follow_the_route():
    versions = {role: each.target.version for role, each in served_roles(ROUTE).items()}
    assert versions == {"active": 2, "previous": 1, "candidate": 3}
    ended = ROUTE.model_copy(update={"canary": CanaryShare(served=served(3), weight_ratio=0.0)})
    assert set(served_roles(ended)) == {"active", "previous"}
    assert served_roles(None) == {}


def test_a_target_is_named_in_full_or_by_what_it_is_in_the_route():
    assert target_in_route(parse_name("support-bot.v7.int8"), "support-bot", None) == target(7)
    named = {"support-bot@active": 2, "support-bot@previous": 1, "support-bot@candidate": 3, "support-bot@v3": 3}
    for text, number in named.items():
        assert target_in_route(parse_name(text), "support-bot", ROUTE) == ROUTE_TARGETS[number]


ROUTE_TARGETS = {number: served(number).target for number in (1, 2, 3)}


@pytest.mark.parametrize("text", ["support-bot", "support-bot@v9"])
def test_what_names_no_target_of_the_route_is_refused_with_what_serves(text):
    with pytest.raises(CommandError, match=r"serves active support-bot\.v2") as refused:
        target_in_route(parse_name(text), "support-bot", ROUTE)
    assert refused.value.code is Exit.USAGE
    with pytest.raises(CommandError, match="serves nothing"):
        target_in_route(parse_name(text), "support-bot", None)


def test_a_target_of_another_model_is_refused():
    with pytest.raises(CommandError, match="it belongs to support-bot, not to other"):
        target_in_route(parse_name("support-bot.v7.int8"), "other", None)


def test_a_misspelt_name_leads_to_those_that_are_like_it():
    assert nearest("suport-bot", ["support-bot", "chat"]) == "did you mean support-bot?"
    assert nearest("zzz", ["support-bot", "chat"]) == ""
    with pytest.raises(CommandError, match="did you mean support-bot@active"):
        parse_name("support-bot@actve")
