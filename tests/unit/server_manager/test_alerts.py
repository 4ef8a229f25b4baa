"""Alerts: production targets that do not generate, and a missing standby."""

import pytest

from contracts.routes import Suspended
from services.server_manager.domain.alerts import (
    UNLOADABLE_AFTER,
    assess_standby,
    find_unloadable,
    note_failures,
    plan_alerts,
)
from services.server_manager.domain.reconcile import Phase
from services.server_manager.domain.records import OpenAlert, Servers
from tests.unit.server_manager.factories import START, at, deployable, held, route, served

V0, V1, V2 = "bot.v0.bf16", "bot.v1.bf16", "bot.v2.bf16"
READY = {V1: held(1), V0: held(0)}
GRACE_S = 5.0
SILENT = dict.fromkeys((V0, V1), "its server does not answer")


def opened(kind, version):
    target = deployable(version).target
    return OpenAlert(kind=kind, target=target, raised_at=START, message="it broke")


def plan(holding, *alerts, routes=None, silent=None, disarmed_s=0.0):
    routes = {"bot": route(1, 0)} if routes is None else routes
    return plan_alerts(
        Servers(alerts=alerts),
        routes,
        holding,
        silent=silent or {},
        grace_s=GRACE_S,
        now=at(7),
        disarmed_s=dict.fromkeys(routes, disarmed_s),
    )


def names(*args, **more):
    return [(change.kind, change.alert.alert_id) for change in plan(*args, **more)]


# -- engine ------------------------------------------------------------------------------------------------------------

ENGINE = "engine-bot.v1.bf16"


def test_it_is_raised_once_for_what_died_and_resolved_when_ready():
    dead = {**READY, V1: held(1, Phase.DEAD, reason="killed")}
    (change,) = plan(dead)
    assert (change.kind, change.alert.alert_id, change.alert.raised_at) == ("raised", ENGINE, at(7))
    assert change.message == f"{V1} does not generate: killed"
    assert names(dead, opened("engine", 1)) == []
    assert names({**READY, V1: held(1, Phase.LOADING)}, opened("engine", 1)) == []
    assert names(READY, opened("engine", 1)) == [("resolved", ENGINE)]


def test_a_target_on_its_way_raises_nothing():
    assert names({**READY, V1: held(1, Phase.LOADING)}) == []
    assert names({V0: held(0)}) == []


@pytest.mark.parametrize("phase", [Phase.DEAD, Phase.FAILED])
def test_a_canary_on_trial_is_production_and_an_aborted_one_is_not(phase):
    broken = {**READY, V2: held(2, phase)}
    assert names(broken, routes={"bot": route(1, 0, 2)}) == [("raised", "engine-bot.v2.bf16")]
    assert names(broken, routes={"bot": route(1, 0, 2, weight=0.0)}) == []


def test_a_silent_server_alerts_for_all_that_serves_and_only_for_it():
    assert names({**READY, V2: held(2)}, silent=SILENT) == [("raised", ENGINE)]
    assert names(READY, opened("engine", 1), silent=SILENT) == []


def test_what_takes_no_traffic_any_more_is_resolved():
    other = {"cat": route(1, 0, model="cat")}
    assert names({}, opened("engine", 2), routes=other) == [("resolved", "engine-bot.v2.bf16")]
    assert names(READY | {V0: held(0, Phase.DEAD)}, opened("engine", 0)) == [("resolved", "engine-bot.v0.bf16")]


# -- standby -----------------------------------------------------------------------------------------------------------

NOT_READY = {
    "not loaded": (None, f"{V0} is not loaded"),
    "loading": (held(0, Phase.LOADING), f"{V0} is being loaded"),
    "loading again": (held(0, Phase.LOADING, reason="killed."), f"{V0} is being loaded (killed)"),
    "unproven": (held(0, Phase.UNPROVEN), f"{V0} has not generated yet"),
    "dead": (held(0, Phase.DEAD, reason="killed"), f"{V0} does not generate (killed)"),
    "failed": (held(0, Phase.FAILED, reason="no space"), f"{V0} could not be loaded (no space)"),
    "unloading": (held(0, Phase.UNLOADING), f"{V0} is being unloaded"),
}


@pytest.mark.parametrize("name", NOT_READY)
def test_a_standby_that_is_not_ready_raises_one_alert_after_the_grace_period(name):
    previous, why = NOT_READY[name]
    targets = {V1: held(1)} | ({V0: previous} if previous is not None else {})
    assert plan(targets, disarmed_s=GRACE_S - 0.1) == []
    (change,) = plan(targets, disarmed_s=GRACE_S)
    assert (change.kind, change.alert.kind, change.alert.alert_id) == ("raised", "standby", "standby-bot")
    assert change.alert.target == deployable(1).target, "the alert is about what serves"
    assert change.message == f"Automatic rollback of bot is disarmed: {why}."
    assert plan(targets, opened("standby", 1), disarmed_s=600) == []


def test_a_missing_standby_raises_an_alert_too():
    alone = {"bot": route(1)}
    (change,) = plan({V1: held(1)}, routes=alone, disarmed_s=GRACE_S)
    assert change.message == f"Automatic rollback of bot is disarmed: {V1} has no previous version."
    assert plan({V1: held(1)}, opened("standby", 1), routes=alone, disarmed_s=600) == []


def test_the_alert_is_resolved_as_soon_as_the_standby_is_ready():
    (change,) = plan(READY, opened("standby", 1), disarmed_s=0)
    assert (change.kind, change.message) == ("resolved", f"Automatic rollback of bot is armed: {V0} generates.")


def test_it_stays_open_while_the_reason_changes_and_across_a_rollback():
    for phase in (Phase.LOADING, Phase.FAILED, Phase.UNPROVEN):
        assert plan({V1: held(1), V0: held(0, phase)}, opened("standby", 2), disarmed_s=0.5) == []
    assert plan({V1: held(1)}, opened("standby", 2), routes={"bot": route(1)}) == []


@pytest.mark.parametrize("routes", [{}, {"bot": route()}])
def test_a_model_without_an_active_target_needs_no_standby(routes):
    assert plan({}, routes=routes, disarmed_s=600) == []
    (change,) = plan({}, opened("standby", 1), routes=routes)
    assert (change.kind, change.message) == ("resolved", "bot serves nothing.")


def test_a_dead_previous_is_no_engine_alert_and_a_dead_active_no_standby_alert():
    both = {V1: held(1, Phase.DEAD), V0: held(0, Phase.DEAD)}
    assert names(both, disarmed_s=GRACE_S) == [("raised", ENGINE), ("raised", "standby-bot")]
    assert names({**READY, V1: held(1, Phase.DEAD)}, disarmed_s=GRACE_S) == [("raised", ENGINE)]
    assert names({**READY, V0: held(0, Phase.DEAD)}, disarmed_s=GRACE_S) == [("raised", "standby-bot")]


def test_behind_a_silent_server_nothing_is_armed():
    assert names(READY, silent=SILENT, disarmed_s=GRACE_S) == [("raised", ENGINE), ("raised", "standby-bot")]
    assert assess_standby({"bot": route(1, 0)}, READY, SILENT) == {
        "bot": f"{V0} is out of reach, its server does not answer"
    }
    assert names(READY, opened("engine", 1), opened("standby", 1), silent=SILENT) == []


def test_each_model_is_looked_at_by_itself():
    routes = {"bot": route(1, 0), "cat": route(1, 0, model="cat")}
    holding = {**READY, "cat.v1.bf16": held(1, model="cat")}
    assert assess_standby(routes, holding, {}) == {"cat": "cat.v0.bf16 is not loaded"}
    assert names(holding, routes=routes, disarmed_s=GRACE_S) == [("raised", "standby-cat")]


# -- what was not said --------------------------------------------------------------------------------------------------


# -- provenance --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["attestation_missing", "signature_invalid", "key_not_trusted", "digest_mismatch"])
def test_a_target_that_is_not_proven_is_alerted_until_it_is_loaded_or_forgotten(code):
    blocked = {**READY, V2: held(2, Phase.FAILED, code=code, reason="its key was revoked")}
    (change,) = plan(blocked)
    assert (change.kind, change.alert.alert_id) == ("raised", "provenance-bot.v2.bf16")
    assert change.message == f"{V2} is not loaded: its key was revoked"
    assert names(blocked, opened("provenance", 2)) == []
    for holding in ({**READY, V2: held(2)}, READY):
        assert names(holding, opened("provenance", 2)) == [("resolved", "provenance-bot.v2.bf16")]


def test_a_target_that_answers_otherwise_than_staged_is_alerted_whether_it_serves_or_not_until_it_is_asked_again():
    differing = {"code": "logprobs_differ", "reason": "they differ"}
    for phase, what in ((Phase.READY, "serves, and is not what was staged"), (Phase.FAILED, "is not loaded")):
        wrong = {**READY, V2: held(2, phase, **differing)}
        (change,) = plan(wrong)
        assert (change.alert.alert_id, change.message) == ("provenance-bot.v2.bf16", f"{V2} {what}: they differ")
        assert names(wrong, opened("provenance", 2)) == []
    assert names({**READY, V2: held(2, Phase.UNPROVEN)}, opened("provenance", 2)) == []
    assert names({**READY, V2: held(2)}, opened("provenance", 2)) == [("resolved", "provenance-bot.v2.bf16")]


def test_a_load_that_failed_otherwise_is_no_question_of_provenance():
    assert names({**READY, V2: held(2, Phase.FAILED, code="load_failed", reason="no memory")}) == []


# -- a suspended target that does not load again -----------------------------------------------------------------------

SUSPENDED = {"bot": route(0, suspended=(Suspended(served=served(1), cause="alert-1", since=START),))}


def unloadable(failures, *, before=0, endpoint="triton", silent=()):
    """Return the verdicts on a suspended target, so many of whose failed loads are of before its suspension."""
    failed = {"code": "load_failed", "reason": "no such file", "endpoint": endpoint}
    first = {V1: held(1, Phase.FAILED, failures=before, **failed)}
    now = {V0: held(0, endpoint="triton"), V1: held(1, Phase.FAILED, failures=failures, **failed)}
    known = note_failures(note_failures({}, SUSPENDED, first), SUSPENDED, now)
    return [verdict.verdict for verdict in find_unloadable(SUSPENDED, now, dict.fromkeys(silent, "it is down"), known)]


def test_a_suspended_target_that_fails_to_load_since_is_confirmed_where_its_endpoint_loads_others():
    assert unloadable(UNLOADABLE_AFTER) == ["confirmed"]
    assert unloadable(UNLOADABLE_AFTER - 1) == []
    assert unloadable(UNLOADABLE_AFTER + 1, before=UNLOADABLE_AFTER) == [], "they failed before it was suspended"
    assert unloadable(UNLOADABLE_AFTER, endpoint="another") == [], "nothing generates there"
    assert unloadable(UNLOADABLE_AFTER, silent=(V0,)) == []
