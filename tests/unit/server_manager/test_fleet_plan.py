"""What is desired, and the plan from what is held to what is desired."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.routes import ShadowShare, Suspended
from services.server_manager.domain import staging
from services.server_manager.domain.reconcile import (
    Action,
    Desired,
    Phase,
    Rank,
    plan_desired,
    plan_production,
    plan_reconcile,
    production_of,
)
from services.server_manager.domain.records import Servers
from tests.kit.soak import often
from tests.unit.server_manager.factories import (
    LIMITS,
    START,
    deployable,
    held,
    route,
    served,
    stage_requested,
    traffic_requested,
)

V0, V1, V2, V3 = "bot.v0.bf16", "bot.v1.bf16", "bot.v2.bf16", "bot.v3.bf16"


def needed(*versions, rank=Rank.PRODUCTION, weights=100):
    return {f"bot.v{version}.bf16": Desired(deployable(version, weights_bytes=weights), rank) for version in versions}


def plan(desired, holding):
    return [(action.kind, action.name) for action in plan_reconcile(desired, holding, LIMITS)]


# -- desired ---------------------------------------------------------------------------------------------------------


def test_production_is_active_previous_and_a_canary_with_traffic():
    routes = {"bot": route(2, 1, 3), "cat": route(5, model="cat")}
    assert set(plan_production(routes)) == {V2, V1, "bot.v3.bf16", "cat.v5.bf16"}


def test_what_serves_is_loaded_before_what_only_stands_by():
    routes = {"cat": route(5, 4, model="cat"), "bot": route(2, 1, 3)}
    loads = [name for kind, name in plan(plan_desired(routes, Servers()), {}) if kind == "load"]
    assert loads == [V2, "cat.v5.bf16", "bot.v3.bf16", V1, "cat.v4.bf16"]


def test_an_aborted_canary_is_not_kept():
    assert set(plan_production({"bot": route(2, 1, 3, weight=0.0)})) == {V2, V1}


def test_a_shadow_is_kept_loaded_like_a_canary_and_an_aborted_one_is_not():
    asked = route(2, 1, shadow=ShadowShare(served=served(3), share_ratio=0.1))
    assert set(plan_production({"bot": asked})) == {V2, V1, "bot.v3.bf16"}
    assert [each.target.version for each in production_of(asked)] == [2, 3, 1]
    for changes in ({"shadow": ShadowShare(served=served(3), share_ratio=0.0)}, {"quarantined": (served(3).target,)}):
        assert set(plan_production({"bot": asked.model_copy(update=changes)})) == {V2, V1}


def test_desired_joins_production_orders_and_the_held_lease_but_not_the_queue():
    record = staging.enqueue_staging(Servers(), stage_requested("s1", 3, 2))
    record = staging.enqueue_staging(record, stage_requested("s2", 4, 2))
    record = staging.grant_lease(record, "s1")
    record = staging.enqueue_order(record, traffic_requested("t1", 5, fallback=0), START)
    desired = plan_desired({"bot": route(2, 1)}, record)
    assert {name: target.rank for name, target in desired.items()} == {
        V2: Rank.PRODUCTION,
        V1: Rank.PRODUCTION,
        "bot.v3.bf16": Rank.STAGING,
        "bot.v5.bf16": Rank.ORDERED,
        V0: Rank.ORDERED,
    }


# -- plan ------------------------------------------------------------------------------------------------------------


def test_nothing_to_do_when_all_is_ready():
    assert plan(needed(1), {V1: held(1)}) == []


def test_missing_is_loaded_production_first():
    desired = {**needed(0, rank=Rank.STAGING), **needed(2, rank=Rank.ORDERED), **needed(1)}
    assert plan(desired, {}) == [("load", V1), ("load", V2), ("load", V0)]


def test_busy_is_left_alone():
    for phase in (Phase.LOADING, Phase.UNLOADING):
        assert plan(needed(1), {V1: held(1, phase)}) == []
        assert plan({}, {V1: held(1, phase, unneeded_s=999.0)}) == []


def test_unproven_is_probed_and_ready_is_probed_again_when_due():
    assert plan(needed(1), {V1: held(1, Phase.UNPROVEN)}) == [("probe", V1)]
    assert plan(needed(1), {V1: held(1, Phase.UNPROVEN, since_probe_s=0.5)}) == [], (
        "a probe that failed is not repeated at once"
    )
    assert plan(needed(1), {V1: held(1, since_probe_s=LIMITS.probe_interval_s)}) == [("probe", V1)]
    assert plan(needed(1), {V1: held(1, Phase.UNPROVEN, probing=True)}) == []


def test_dead_is_healed_at_once_then_after_delays():
    assert plan(needed(1), {V1: held(1, Phase.DEAD)}) == [("heal", V1)]
    assert plan(needed(1), {V1: held(1, Phase.DEAD, failures=1, since_s=0.1)}) == []
    assert plan(needed(1), {V1: held(1, Phase.DEAD, failures=1, since_s=60.0)}) == [("heal", V1)]


def test_failed_is_tried_again_later_and_later():
    assert plan(needed(1), {V1: held(1, Phase.FAILED, failures=1, since_s=1.0)}) == []
    assert plan(needed(1), {V1: held(1, Phase.FAILED, failures=1, since_s=4.0)}) == [("load", V1)]


def test_another_manifest_under_the_same_name_is_loaded_anew():
    other = held(1, digest=deployable(9).manifest.digest)
    assert plan(needed(1), {V1: other}) == [("heal", V1)]


def test_unneeded_lingers_then_goes():
    assert plan({}, {V1: held(1, unneeded_s=1.0)}) == []
    assert plan({}, {V1: held(1, unneeded_s=LIMITS.linger_s)}) == [("unload", V1)]


def test_unneeded_and_broken_goes_at_once():
    for phase in (Phase.DEAD, Phase.FAILED):
        assert plan({}, {V1: held(1, phase, unneeded_s=0.0)}) == [("unload", V1)]
    assert plan({}, {V1: held(1, Phase.UNPROVEN, unneeded_s=0.0)}) == [], "another process loaded it: it may serve"


def test_memory_is_made_by_unloading_the_longest_unneeded_and_loading_waits_for_it():
    full = {f"bot.v{n}.bf16": held(n, unneeded_s=float(n)) for n in range(5, 10)}
    assert plan(needed(1), full) == [("unload", "bot.v9.bf16")]
    del full["bot.v9.bf16"]
    assert plan(needed(1), full) == [("load", V1)]


def test_two_that_do_not_fit_together_are_loaded_one_after_the_other():
    most = {f"bot.v{n}.bf16": held(n) for n in range(5, 9)}
    kept = {**needed(1, 2), **needed(*range(5, 9))}
    assert plan(kept, most) == [("load", V1)]


def test_what_is_suspended_makes_way_for_a_newer_version_and_comes_back_once_there_is_memory():
    suspended = Suspended(served=served(3), cause="slow", since=START)
    desired = plan_desired({"bot": route(2, 1, suspended=(suspended,))}, Servers())
    assert [desired[name].rank for name in (V2, V1, V3)] == [Rank.PRODUCTION, Rank.PRODUCTION, Rank.SUSPENDED]
    assert ("load", V3) in plan(desired, {V2: held(2), V1: held(1)})
    staged = {**desired, **needed(4, 5, 6, rank=Rank.STAGING)}
    full = {f"bot.v{n}.bf16": held(n) for n in range(1, 6)}
    assert plan(desired | needed(4, 5), full) == [], "nothing needs its memory"
    assert plan(staged, full) == [("unload", V3)]
    del full[V3]
    assert plan(staged, full) == [("load", "bot.v6.bf16")]
    assert plan(staged, {**full, "bot.v6.bf16": held(6)}) == [], "it waits for memory"


def test_what_is_needed_is_never_unloaded_for_memory():
    full = {f"bot.v{n}.bf16": held(n) for n in range(1, 6)}
    assert plan(needed(1, 2, 3, 4, 5, 6), full) == []


_PHASES = st.sampled_from([Phase.READY, Phase.UNPROVEN, Phase.DEAD, Phase.FAILED])
_HELD = st.dictionaries(st.integers(0, 7), st.tuples(_PHASES, st.booleans()), max_size=5)


def _after(holding, action: Action, desired):
    """What the world is once an action has gone well."""
    after = dict(holding)
    if action.kind == "unload":
        del after[action.name]
    else:
        version = int(action.name.split(".")[1][1:])
        after[action.name] = held(version)
    return after


@settings(max_examples=often(100))
@given(_HELD, st.sets(st.integers(0, 7), max_size=5))
def test_every_start_converges_without_exceeding_memory(start, versions):
    desired = needed(*versions)
    holding = {}
    for version, (phase, stale) in start.items():
        digest = deployable(99 if stale else version).manifest.digest
        holding[f"bot.v{version}.bf16"] = held(version, phase, digest=digest, failures=1, since_s=999.0, unneeded_s=999)
    for _ in range(20):
        actions = plan_reconcile(desired, holding, LIMITS)
        assert len({action.name for action in actions}) == len(actions), "one action per target at a time"
        if not actions:
            break
        for action in actions:
            assert (action.kind == "unload") == (action.name not in desired)
            holding = _after(holding, action, desired)
            reserved = sum(target.memory_bytes for target in holding.values() if target.phase is not Phase.FAILED)
            assert reserved <= LIMITS.memory_budget_bytes
    assert set(holding) == set(desired)
    assert all(target.phase is Phase.READY for target in holding.values())
    assert all(target.digest == desired[name].deployable.manifest.digest for name, target in holding.items())


def test_limits_count_weights_and_overhead():
    limits = replace(LIMITS, weights_ratio=1.5, overhead_bytes=10)
    assert limits.memory_bytes(deployable(1, weights_bytes=100)) == 160
