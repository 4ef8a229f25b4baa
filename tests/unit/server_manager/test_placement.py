"""Where targets go: hypothesis over everything that may be desired, held, named by routes, silent and full."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.vocabulary import ServingSettings
from services.server_manager.domain.answer_types import describe_free, fits
from services.server_manager.domain.placement import (
    Fleet,
    apart_from,
    assign,
    endpoints_of,
    find_all_named,
    find_counterparts,
    find_lost,
    plan_all_homes,
    plan_homes,
)
from services.server_manager.domain.reconcile import Desired, Limits, Phase, Rank, plan_desired, plan_reconcile
from services.server_manager.domain.records import Lease, Servers, TrafficOrder
from tests.unit.server_manager.factories import (
    LIMITS,
    START,
    deployable,
    held,
    route,
    stage_requested,
    traffic_requested,
)

ENDPOINTS = ("default", "two", "three", "next", "next-two")
RUNTIMES = {"default": "default", "two": "default", "three": "default", "next": "next", "next-two": "next"}
TWO = replace(LIMITS, endpoints={"default": "default", "two": "default"})
NEXT = ServingSettings(runtime="next")
ADDRESSES = {"127.0.0.1:1": "default", "127.0.0.1:2": "two"}


def name_of(version: int) -> str:
    return str(deployable(version).target)


def both_ways(pairs):
    """Return the counterparts of each target in some pairs."""
    return {
        name: frozenset().union(*(pair - {name} for pair in pairs if name in pair)) for pair in pairs for name in pair
    }


@st.composite
def situations(draw):
    """Return desired targets and a fleet, whatever they are."""
    versions = range(draw(st.integers(2, 6)))
    desired = {}
    for version in versions:
        target = deployable(version, weights_bytes=draw(st.sampled_from((0, 100, 500))))
        serving = draw(st.sampled_from((None, NEXT, ServingSettings(runtime="gone"))))
        desired[name_of(version)] = Desired(
            target.model_copy(update={"serving": serving}), draw(st.sampled_from(list(Rank)))
        )
    endpoints = draw(st.sets(st.sampled_from(ENDPOINTS), min_size=1)) | {"default"}
    budgets = {name: draw(st.integers(0, 1500)) for name in sorted(endpoints) if draw(st.booleans())}
    limits = Limits(
        memory_budget_bytes=draw(st.integers(0, 1500)) + sum(budgets.values()),
        overhead_bytes=100,
        weights_ratio=1.0,
        endpoints={name: RUNTIMES[name] for name in ENDPOINTS if name in endpoints},
        budgets=budgets,
    )
    holding = {
        name_of(version): held(version, draw(st.sampled_from(list(Phase))), endpoint=draw(st.sampled_from(ENDPOINTS)))
        for version in draw(st.sets(st.integers(0, 8)))
    }
    endpoint, name = st.sampled_from(ENDPOINTS), st.sampled_from([name_of(version) for version in versions])
    fleet = Fleet(
        limits,
        holding,
        named=draw(st.dictionaries(name, st.tuples(endpoint))),
        apart=both_ways(draw(st.sets(st.frozensets(name, min_size=2, max_size=2)))),
        lost=frozenset(draw(st.sets(endpoint))),
        earlier=draw(st.dictionaries(name, endpoint)),
        unlisted=frozenset(draw(st.sets(endpoint))),
    )
    return desired, fleet


def is_loaded(holding, name):
    return name in holding and holding[name].phase is not Phase.FAILED


@given(situations())
def test_each_target_has_an_endpoint_of_its_runtime_and_what_is_loaded_stays_on_its_own(situation):
    desired, known = situation
    holding, limits = known.held, known.limits
    homes = plan_homes(desired, known)
    for name, target in desired.items():
        candidates = endpoints_of(target.deployable, limits)
        assert homes.get(name) in (candidates or [None])
        settled = holding[name].endpoint if is_loaded(holding, name) else None
        if settled not in candidates:
            settled = known.named.get(name, (None,))[0] if target.rank is Rank.PRODUCTION else None
        if settled not in candidates or homes[name] == settled:
            continue
        assert target.rank is Rank.PRODUCTION
        counterparts = [homes.get(other) for other in known.apart.get(name, ())]
        assert settled in known.lost or (not is_loaded(holding, name) and settled in counterparts)
        assert settled in known.lost or settled not in known.unlisted
        assert homes[name] not in known.lost
    assert homes == plan_homes(dict(desired), replace(known, held=dict(holding))), "the same choice each time"


@given(situations())
def test_a_choice_is_kept_from_pass_to_pass(situation):
    desired, known = situation
    homes = plan_homes(desired, known)
    again = plan_homes(desired, replace(known, earlier=homes))
    assert {name: home for name, home in again.items() if home not in known.lost} == {
        name: home for name, home in homes.items() if home not in known.lost
    }


def test_what_moves_from_a_lost_endpoint_keeps_its_choice_although_another_one_waits_for_memory_there():
    """In the first pass it has the memory before the other one is placed; later that one is counted first."""
    desired = {name_of(version): Desired(deployable(version, weights_bytes=0), Rank.PRODUCTION) for version in (0, 1)}
    holding = {name_of(0): held(0, Phase.READY, endpoint="default")}  # it reserves 200
    limits = replace(TWO, memory_budget_bytes=300, overhead_bytes=100, weights_ratio=1.0)
    known = Fleet(limits, holding, lost=frozenset({"default"}))
    homes = plan_homes(desired, known)
    assert homes == {name_of(0): "two", name_of(1): "two"}
    assert plan_homes(desired, replace(known, earlier=homes)) == homes


@given(situations(), st.integers(0, 5))
def test_what_is_new_shares_with_its_counterpart_only_where_no_other_endpoint_has_memory_for_it(situation, number):
    desired, known = situation
    limits, known = known.limits, replace(known, held={})
    new = list(desired)[number % len(desired)]
    others = plan_homes({name: desired[name] for name in desired if name != new}, replace(known, named={}))
    homes = plan_homes(desired, replace(known, named={}, earlier=others, lost=frozenset()))
    if new not in homes:
        return
    sizes = {name: limits.memory_bytes(desired[name].deployable) for name in homes}

    def cost(endpoint):
        counterparts = [name for name in others if others[name] == endpoint and name in known.apart.get(new, ())]
        reserved = sum(sizes[name] for name in others if others[name] == endpoint)
        pool = {
            name: home for name, home in {**others, new: endpoint}.items() if limits.pool(home) == limits.pool(endpoint)
        }
        return not fits({name: sizes[name] for name in pool}, pool, limits), len(counterparts), reserved

    assert cost(homes[new]) == min(cost(endpoint) for endpoint in endpoints_of(desired[new].deployable, limits))


@given(situations())
def test_no_memory_is_reserved_beyond_what_it_has_where_a_target_is_loaded(situation):
    desired, known = situation
    holding, limits = known.held, known.limits
    homes = plan_homes(desired, known)
    placed = {name: target for name, target in desired.items() if name in homes}
    used = {name: target.memory_bytes for name, target in holding.items() if target.phase is not Phase.FAILED}
    where = {name: target.endpoint for name, target in holding.items()}
    before = fits(used, where, limits)
    for action in plan_reconcile(placed, holding, limits, kept=holding, homes=homes):
        if action.kind == "load":
            used[action.name] = limits.memory_bytes(action.deployable)
            where[action.name] = homes[action.name]
    assert fits(used, where, limits) or not before


def placed(record, routes, holding=None, limits=TWO, **known):
    holding = holding or {}
    desired = plan_desired(routes, record)
    apart = find_counterparts(record, routes)
    fleet = Fleet(limits, holding, named=find_all_named(routes, ADDRESSES), apart=apart, **known)
    return plan_all_homes(record, desired, fleet)


def order(version, **more):
    return TrafficOrder(event=traffic_requested("t", version, **more), received_at=START)


def test_a_first_version_and_its_fallback_are_loaded_on_different_endpoints():
    homes = placed(Servers(orders=(order(1, fallback=0),)), {})
    assert homes == {name_of(1): "default", name_of(0): "two"}


@pytest.mark.parametrize("weight", [0.1, 1.0])
def test_what_is_to_take_traffic_goes_where_the_active_target_is_not(weight):
    """Active stands on the second endpoint, previous on the first, which reserves more by now."""
    routes = {"bot": route(1, 0)}
    holding = {name_of(1): held(1, endpoint="two"), name_of(0): held(0)}
    assert placed(Servers(orders=(order(2, weight=weight),)), routes, holding)[name_of(2)] == "default"
    staging = Servers(lease=Lease(event=stage_requested("s", 2, 1)))
    assert placed(staging, routes, holding)[name_of(2)] == "default"
    waiting = Servers(waiting=(Lease(event=stage_requested("s", 2, 1)),))
    assert placed(waiting, routes, holding)[name_of(2)] == "default"


def test_what_is_new_waits_for_an_endpoint_that_is_silent_for_a_while_and_not_for_one_that_is_lost():
    record, routes, holding = Servers(orders=(order(2),)), {"bot": route(1)}, {name_of(1): held(1)}
    assert placed(record, routes, holding)[name_of(2)] == "two"
    assert find_lost({"two": LIMITS.silent_limit_s - 1}, TWO) == frozenset()
    lost = find_lost({"two": LIMITS.silent_limit_s}, TWO)
    assert placed(record, routes, holding, lost=lost)[name_of(2)] == "default"


def test_two_that_share_an_endpoint_stay_while_they_are_loaded_and_part_when_they_are_loaded_again():
    """A fleet that had one Triton, or a rollback past a version."""
    routes = {"bot": route(1, 0)}
    loaded = {name_of(1): held(1), name_of(0): held(0)}
    assert placed(Servers(), routes, loaded) == {name_of(1): "default", name_of(0): "default"}
    assert placed(Servers(), routes) == {name_of(1): "default", name_of(0): "two"}
    assert placed(Servers(), routes, {name_of(1): held(1)}) == {name_of(1): "default", name_of(0): "two"}
    assert placed(Servers(), routes, unlisted=frozenset({"default"}))[name_of(0)] == "default"
    full = replace(TWO, memory_budget_bytes=1000, budgets={"two": 100})
    assert placed(Servers(), routes, limits=full)[name_of(0)] == "default", "there is no memory on the other one"


def test_two_that_are_named_on_one_endpoint_part_where_both_just_fit():
    """Shared memory of exactly two targets: what is not loaded reserves nothing where its route names it."""
    routes, tight = {"bot": route(1, 0)}, replace(TWO, memory_budget_bytes=400)
    apart = {name_of(1): "default", name_of(0): "two"}
    assert placed(Servers(), routes, limits=tight) == apart
    assert placed(Servers(), routes, {name_of(1): held(1)}, tight) == apart
    failed = {name_of(1): held(1), name_of(0): held(0, Phase.FAILED)}
    assert placed(Servers(), routes, failed, tight) == apart
    assert placed(Servers(), routes, limits=replace(tight, memory_budget_bytes=399))[name_of(0)] == "default"
    loaded = {name_of(1): held(1), name_of(0): held(0)}
    both = {name_of(1): "default", name_of(0): "default"}
    lost = frozenset({"default"})
    assert placed(Servers(), routes, loaded, tight, lost=lost) == both, "its memory may still be taken"
    assert placed(Servers(), routes, limits=tight, lost=lost, unlisted=lost) == both, "it has not said what it holds"


def test_production_leaves_a_lost_endpoint_for_one_with_memory():
    routes, lost = {"bot": route(1, 0)}, frozenset({"default"})
    loaded = {name_of(1): held(1), name_of(0): held(0, endpoint="two")}
    assert placed(Servers(), routes, loaded, lost=lost) == {name_of(1): "two", name_of(0): "two"}
    full = replace(TWO, memory_budget_bytes=1000, budgets={"two": 300})
    assert placed(Servers(), routes, loaded, full, lost=lost)[name_of(1)] == "default"
    everywhere = frozenset({"default", "two"})
    assert placed(Servers(), routes, loaded, lost=everywhere) == {name_of(1): "default", name_of(0): "two"}


def test_of_models_that_have_nothing_to_do_with_each_other_the_emptier_endpoint_is_chosen():
    routes = {"bot": route(1)}
    record = Servers(orders=(order(1, model="cat"), order(1, model="dog")))
    homes = placed(record, routes, {name_of(1): held(1)})
    assert (homes["cat.v1.bf16"], homes["dog.v1.bf16"]) == ("two", "default")


@pytest.mark.parametrize(
    ("candidates", "chosen"),
    [(["default", "two", "three"], "three"), (["default", "two"], "two"), (["default"], "default")],
)
def test_an_endpoint_with_a_copy_of_a_counterpart_is_better_than_its_home_and_worse_than_any_other(candidates, chosen):
    taken = {"default": 0, "two": 100, "three": 500}
    apart = both_ways([frozenset({name_of(1), name_of(2)})])
    fleet = Fleet(LIMITS, named={name_of(1): ("default", "two")}, apart=apart)
    sorters = [*apart_from(name_of(2), {name_of(1): "default"}, fleet), taken.__getitem__]
    assert assign(candidates, (), sorters) == (chosen, [])


def test_what_a_filter_refuses_is_not_taken_and_the_first_one_that_refuses_says_why():
    def is_full(endpoint):
        return "has 3 bytes free" if endpoint != "three" else ""

    def is_drained(endpoint):
        return "is drained" if endpoint == "two" else ""

    names = ["default", "two", "three"]
    assert assign(names, [is_drained, is_full], [names.index]) == (
        "three",
        ["default has 3 bytes free", "two is drained"],
    )
    assert assign(names[:2], [is_full], [len]) == (None, ["default has 3 bytes free", "two has 3 bytes free"])
    assert assign(names, [], [len]) == ("two", []), "the first of equal ones"


def test_an_endpoint_with_memory_of_its_own_takes_what_fits_and_a_refusal_names_what_each_has_free():
    limits = replace(TWO, memory_budget_bytes=1000, budgets={"two": 300})
    routes = {"bot": route(1)}
    holding = {name_of(1): held(1)}
    record = Servers(orders=(order(2), order(1, model="cat")))
    homes = placed(record, routes, holding, limits)
    assert (homes[name_of(2)], homes["cat.v1.bf16"]) == ("two", "default"), "200 bytes are not free there any more"
    assert describe_free({name_of(1): 200}, {name_of(1): "default"}, limits) == (
        " Of the endpoints, default has 700 bytes with 500 free; two has 300 bytes with 300 free."
    )
    assert describe_free({name_of(1): 200}, {name_of(1): "default"}, TWO) == (
        " Of the endpoints, default and two share 1000 bytes with 800 free."
    )
    assert describe_free({}, {}, LIMITS) == ""
