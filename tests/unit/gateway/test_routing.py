"""Which target answers: weights, stickiness, pins, bars."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.routes import CanaryShare, Route
from decisions.serving.fingerprints import fingerprint
from services.gateway.domain import routing
from services.gateway.domain.routing import RequestedModel
from testbed.factories import MODEL, route, served, target

NOW = datetime(2026, 12, 1, tzinfo=UTC)
KEYS = [f"user-{number}" for number in range(4000)]
weights = st.floats(min_value=0.0, max_value=0.99)


def on_trial(weight: float, **changes) -> Route:
    return route(canary=CanaryShare(served=served(8), weight_ratio=weight), **changes)


def trial_keys(candidate: Route) -> set[str]:
    return {key for key in KEYS if choose(candidate, key).canary}


def choose(candidate, key, now=NOW):
    return routing.choose_target(candidate, key, now)


def test_a_canary_whose_traffic_is_away_gets_no_request_until_it_is_back_but_by_its_name():
    share = CanaryShare(served=served(8), weight_ratio=0.9, away_until=NOW + timedelta(seconds=70))
    away = route(canary=share)
    assert not any(choose(away, key).canary for key in KEYS[:50])
    assert any(choose(away, key, share.away_until).canary for key in KEYS[:50])
    assert routing.choose_pinned(away, 8).canary


@given(weights, st.text(max_size=40))
def test_the_same_key_always_gets_the_same_target(weight, key):
    candidate = on_trial(weight)
    assert choose(candidate, key) == choose(candidate, key)


@given(weights, weights, st.text(max_size=40))
def test_a_rising_weight_removes_no_caller_from_the_canary(first, second, key):
    low, high = sorted((first, second))
    if choose(on_trial(low), key).canary:
        assert choose(on_trial(high), key).canary


@given(st.text(max_size=40))
def test_weight_zero_is_no_caller(key):
    assert choose(on_trial(0.0), key).served.target == target(7)


@given(st.text(max_size=40), st.floats(min_value=0.01, max_value=0.99))
def test_a_quarantined_canary_gets_no_request(key, weight):
    assert not choose(on_trial(weight, quarantined=(target(8),)), key).canary


@given(st.text(max_size=40), weights)
def test_only_active_and_canary_are_ever_chosen(key, weight):
    chosen = choose(on_trial(weight), key)
    assert (chosen.served.target, chosen.canary) in {(target(7), False), (target(8), True)}


def test_a_canary_that_is_only_for_some_draws_their_requests_and_the_others_are_no_evidence():
    for_staff = route(canary=CanaryShare(served=served(8), weight_ratio=0.5, only_for=("team:staff", "key:alice")))
    drawn = {
        name: [routing.choose_target(for_staff, key, NOW, {"key:shop", name}) for key in KEYS[:400]]
        for name in ("team:staff", "key:alice", "team:other", "")
    }
    shares = {name: sum(choice.canary for choice in of) for name, of in drawn.items()}
    assert shares["team:staff"] == shares["key:alice"] == pytest.approx(200, abs=40)
    assert shares["team:other"] == shares[""] == 0
    assert {name: {choice.pinned for choice in of} for name, of in drawn.items()} == {
        "team:staff": {False},
        "key:alice": {False},
        "team:other": {True},
        "": {True},
    }


def test_while_its_traffic_is_away_requests_of_others_than_a_canary_is_for_are_still_no_evidence():
    share = CanaryShare(
        served=served(8), weight_ratio=0.5, only_for=("team:staff",), away_until=NOW + timedelta(seconds=70)
    )
    choices = {name: routing.choose_target(route(canary=share), "key", NOW, {name}) for name in ("team:staff", "")}
    assert {name: (choice.canary, choice.pinned) for name, choice in choices.items()} == {
        "team:staff": (False, False),
        "": (False, True),
    }


@pytest.mark.parametrize("weight", [0.05, 0.25, 0.5])
def test_the_share_is_the_weight(weight):
    share = len(trial_keys(on_trial(weight))) / len(KEYS)
    assert share == pytest.approx(weight, abs=4 * (weight * (1 - weight) / len(KEYS)) ** 0.5)


def test_another_canary_draws_other_people():
    eighth = trial_keys(on_trial(0.1))
    ninth = trial_keys(route(canary=CanaryShare(served=served(9), weight_ratio=0.1)))
    assert len(eighth & ninth) < 0.5 * len(eighth)


def test_nothing_serves_without_an_active_target():
    assert choose(Route(model=MODEL), "k") is None


@pytest.mark.parametrize(
    ("name", "requested"),
    [
        ("support-bot", RequestedModel("support-bot")),
        ("support-bot@v3", RequestedModel("support-bot", 3)),
        ("support-bot@v0", RequestedModel("support-bot", 0)),
        ("support-bot@v03", None),
        ("support-bot@3", None),
        ("support-bot@v", None),
        ("support-bot@v3\n", None),
        ("support-bot\n", None),
        ("Support-Bot", None),
        ("../etc", None),
        ("a.b", None),
        ("", None),
        ("x" * 64, None),
        ("support-bot@v" + "9" * 30, None),
    ],
)
def test_names(name, requested):
    assert routing.parse_model_name(name) == requested


@given(st.text(max_size=80))
def test_no_name_breaks_the_parser(name):
    requested = routing.parse_model_name(name)
    assert requested is None or requested.model == name.split("@")[0]


@pytest.mark.parametrize(("version", "canary"), [(7, False), (8, True), (6, False)])
def test_a_pin_reaches_active_canary_and_previous(version, canary):
    choice = routing.choose_pinned(route(), version)
    assert (choice.served.target.version, choice.canary) == (version, canary)


@pytest.mark.parametrize("version", [5, 4, 99])
def test_a_pin_reaches_nothing_else(version):
    assert routing.choose_pinned(route(), version) is None


def test_a_pin_does_not_reach_what_was_rolled_back():
    assert routing.choose_pinned(on_trial(0.0, quarantined=(target(8),)), 8) is None
    assert routing.choose_pinned(route(quarantined=(target(6),)), 6) is None


def test_models_are_listed_under_every_name_that_works():
    assert routing.list_models(route()) == [MODEL, f"{MODEL}@v8", f"{MODEL}@v7", f"{MODEL}@v6"]
    assert routing.list_models(Route(model=MODEL)) == []


@given(st.text(max_size=30))
def test_endpoints_are_all_tried_in_turn(key):
    three = served(7, endpoints=("a:1", "b:1", "c:1"))
    order = routing.order_endpoints(three, key)
    assert sorted(order) == ["a:1", "b:1", "c:1"]


def test_endpoints_share_the_load():
    three = served(7, endpoints=("a:1", "b:1", "c:1"))
    first = [routing.order_endpoints(three, key)[0] for key in KEYS]
    assert min(first.count(endpoint) for endpoint in three.endpoints) > len(KEYS) * 0.28


def test_the_fingerprint_names_the_target_and_its_manifest():
    candidate = served(7)
    hex8 = candidate.manifest.digest.removeprefix("sha256:")[:8]
    assert fingerprint(candidate.target, candidate.manifest.digest) == f"fp_support-bot.v7.int8.{hex8}"
