"""Budgets of keys, and the shares of their limits, as callers and the gateway's processes meet them."""

from datetime import timedelta

import pytest

from contracts.api_keys import KeyLimits
from contracts.api_usage import DemandReport, MonthlyUsage
from services.gateway.budgets import Budgets
from services.gateway.shares import MOST_PROCESSES, Shares
from tests.unit.gateway.fakes import StepClock
from tests.unit.gateway.world import BEARER, ID, World, key, only_active

OTHER = "fedcba9876543210"


def world(**limits) -> World:
    return World(only_active(), keys=(key(limits=KeyLimits(**limits)),))


async def test_a_key_whose_budget_is_used_up_is_refused_until_the_month_ends():
    gateway = world(tokens_per_month=120)
    assert (await gateway.chat(BEARER)).status_code == 200
    used = gateway.budgets.used(ID)
    assert 3 < used < 20
    await gateway.budgets.apply(ID, MonthlyUsage(account=ID, month="2026-03", tokens=120), 7)
    refused = await gateway.chat(BEARER)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["type"]) == (429, "insufficient_quota", "insufficient_quota")
    assert 27 * 86_400 < int(refused.headers["retry-after"]) < 31 * 86_400
    assert len(gateway.engine.requests) == 1
    await gateway.budgets.apply(ID, MonthlyUsage(account=ID, month="2026-02", tokens=120), 8)
    assert (await gateway.chat(BEARER)).status_code == 200


async def test_what_requests_in_progress_may_take_is_not_given_to_others():
    gateway = world(tokens_per_month=1000)
    caller = gateway.callers.authenticate([BEARER["authorization"]], "production")
    with gateway.callers.admit(caller) as spending:
        spending.hold(500, 490, expected=100)
        refused = await gateway.chat(BEARER)
        assert (refused.json()["error"]["code"], refused.headers["retry-after"]) == ("insufficient_quota", "1")
    assert (await gateway.chat(BEARER)).status_code == 200
    assert gateway.budgets.held(ID) == 0


def test_additions_continue_a_month_begin_the_next_and_never_go_back():
    clock = StepClock()
    budgets = Budgets(clock, OTHER)
    first = budgets.next_record(ID, None, 5, 1)
    assert (first.month, first.tokens, first.requests, first.writer) == ("2026-03", 5, 1, OTHER)
    assert budgets.next_record(ID, first, 7, 1).tokens == 12
    old = first.model_copy(update={"month": "2026-02"})
    assert budgets.next_record(ID, old, 7, 1).tokens == 7
    later = first.model_copy(update={"month": "2026-04"})  # by a clock that is ahead
    assert (budgets.next_record(ID, later, 7, 1).month, budgets.next_record(ID, later, 7, 1).tokens) == ("2026-04", 12)


async def test_what_was_not_used_for_months_is_forgotten_unless_a_clock_is_wrong():
    clock = StepClock()  # in March 2026
    budgets = Budgets(clock, OTHER)
    for account, month in (("old", "2025-12"), ("kept", "2026-01"), ("busy", "2025-01")):
        await budgets.apply(account, MonthlyUsage(account=account, month=month, tokens=5), 3)
    budgets.add("busy", 1)
    now = clock.now()
    assert budgets.forgotten(now) == [("old", 3)]
    assert budgets.forgotten(now + timedelta(days=900)) == [("old", 3)], "the clock of the bus is ahead"
    await clock.pause(900 * 86_400)
    assert budgets.forgotten(now) == [("old", 3)], "the clock here is ahead"
    budgets.note_removed("old", 2)
    assert budgets.forgotten(now) == [("old", 3)], "it was written since"
    budgets.note_removed("old", 3)
    assert budgets.forgotten(now) == []


async def test_what_is_recorded_is_not_counted_twice():
    budgets = Budgets(StepClock(), OTHER)
    budgets.add(ID, 10)
    written = budgets.next_record(ID, None, 10, 1)
    budgets.add(ID, 3)  # while it is written
    budgets.note_recorded(written, 1, 10, 1)
    assert (budgets.used(ID), budgets.unrecorded()) == (13, {ID: (3, 1)})
    await budgets.apply(ID, written, 1)
    assert budgets.used(ID) == 13
    await budgets.apply("another", written, 5)
    assert budgets.used("another") == 0


async def test_a_process_without_demand_has_a_small_share_and_one_with_all_has_the_rest():
    gateway = world(requests_per_minute=60)
    for _ in range(20):
        await gateway.chat(BEARER)
    gateway.shares.report()
    gateway.shares.take_report(DemandReport(process=OTHER, demand={}))
    gateway.shares.divide()
    assert 0.97 < gateway.shares.of(ID) < 1
    gateway.shares.take_report(DemandReport(process=OTHER, demand={ID: 990.0}))
    gateway.shares.divide()
    assert 0.01 < gateway.shares.of(ID) < 0.05
    refused = await gateway.chat(BEARER)
    assert refused.headers["x-ratelimit-limit-requests"] == "60"
    await gateway.clock.pause(6)
    assert gateway.shares.of(ID) < 0.05, "without the bus the last share stands"
    gateway.shares.divide()
    assert gateway.shares.of(ID) == 1, "one that vanished is forgotten"


async def test_a_list_of_models_is_a_request():
    gateway = world(requests_per_minute=2)
    answers = [await gateway.http.get(path, headers=BEARER) for path in ("/v1/models", "/v1/models/none", "/v1/models")]
    assert [answer.status_code for answer in answers] == [200, 404, 429]
    assert answers[0].headers["x-ratelimit-remaining-requests"] == "1"


async def test_workers_share_equally_until_they_have_reports():
    gateway = World(only_active(), keys=(key(),), workers=4)
    assert gateway.shares.of(ID) == 0.25
    for number in range(3):
        gateway.shares.take_report(DemandReport(process=f"{number:016x}"))
    assert gateway.shares.of(ID) == 0.25
    gateway.shares.take_report(gateway.shares.report())
    assert gateway.shares.of(ID) == 0.25, "its own report is none of another"


async def test_strangers_leave_nothing_behind():
    """10,000 unknown keys have no allowance, no demand, no usage and no metric of their own."""
    gateway = world(requests_per_minute=60)
    before = len((await gateway.admin.get("/metrics/")).text.splitlines())
    for number in range(300):
        answer = await gateway.chat({"authorization": f"Bearer sk-slipway-{number:012x}-{'0' * 64}"})
        assert answer.status_code == 401
    assert gateway.shares.report().demand == {}
    assert gateway.budgets.unrecorded() == {}
    assert not gateway.callers._usage
    assert len((await gateway.admin.get("/metrics/")).text.splitlines()) <= before + 8


async def test_a_key_that_has_just_expired_is_refused_whatever_it_has_left():
    clock = StepClock()
    gateway = World(only_active(), keys=(key(expires_at=clock.now() + timedelta(minutes=5)),), clock=clock)
    assert (await gateway.chat(BEARER)).status_code == 200
    await clock.pause(600)
    assert (await gateway.chat(BEARER)).json()["error"]["code"] == "key_expired"


def test_reports_of_too_many_processes_are_ignored():
    shares = Shares(StepClock(), "a" * 16, 1)
    for number in range(2 * MOST_PROCESSES):
        shares.take_report(DemandReport(process=f"{number:016x}", demand={ID: 1.0}))
    shares.note(ID)
    shares.report()
    shares.divide()
    shares.divide()
    assert shares.of(OTHER) == pytest.approx(1 / (1 + MOST_PROCESSES))
