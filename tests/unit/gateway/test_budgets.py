"""Budgets of keys, and limits that several processes admit together."""

from contracts.api_keys import KeyLimits
from contracts.api_usage import MonthlyUsage
from services.gateway.callers.budgets import Budgets
from shared.storage.kv import Snapshot
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


async def test_what_is_recorded_is_not_counted_twice():
    budgets = Budgets(StepClock(), OTHER)
    budgets.add(ID, tokens=10, requests=1)
    written = budgets.next_record(ID, None, 10, 1)
    budgets.add(ID, tokens=3, requests=1)  # while it is written
    budgets.note_recorded(written, 1, 10, 1)
    assert (budgets.used(ID), budgets.unrecorded()) == (13, {ID: (3, 1)})
    await budgets.apply(ID, written, 1)
    assert budgets.used(ID) == 13
    await budgets.apply("another", written, 5)
    assert budgets.used("another") == 0


def recorded(requests, **changes):
    return MonthlyUsage(account=ID, month="2026-03", requests=requests, writer="other", **changes)


async def test_what_other_processes_recorded_is_taken_of_the_limits_of_a_key():
    gateway = world(requests_per_minute=60)
    await gateway.budgets.apply(ID, recorded(1000), 1)  # before this process began
    await gateway.budgets.note_bucket(Snapshot(None, frozenset()))
    assert (await gateway.chat(BEARER)).headers["x-ratelimit-remaining-requests"] == "59"
    await gateway.budgets.apply(ID, recorded(1040), 2)
    assert (await gateway.chat(BEARER)).headers["x-ratelimit-remaining-requests"] == "18"
    await gateway.budgets.apply(ID, recorded(2000), 3)
    refused = await gateway.chat(BEARER)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "61"), "a minute's is owed at most"


async def test_a_key_that_was_not_asked_with_here_has_what_others_left():
    gateway = world(requests_per_minute=60, tokens_per_minute=10_000)
    await gateway.budgets.note_bucket(Snapshot(None, frozenset()))
    await gateway.budgets.apply(ID, recorded(50, tokens=9_000), 1)
    answer = await gateway.chat(BEARER)
    assert answer.headers["x-ratelimit-remaining-requests"] == "9"
    assert int(answer.headers["x-ratelimit-remaining-tokens"]) < 1000


async def test_what_this_process_recorded_is_not_taken_again():
    gateway = world(requests_per_minute=60)
    budgets = gateway.budgets
    await budgets.note_bucket(Snapshot(None, frozenset()))
    await gateway.chat(BEARER)
    ((tokens, requests),) = budgets.unrecorded().values()
    written = budgets.next_record(ID, recorded(5), tokens, requests)
    await budgets.apply(ID, written, 2)
    budgets.note_recorded(written, 2, tokens, requests)
    assert (await gateway.chat(BEARER)).headers["x-ratelimit-remaining-requests"] == "53"
    await budgets.apply(ID, written.model_copy(update={"month": "2026-04", "requests": 3, "writer": "other"}), 3)
    assert (await gateway.chat(BEARER)).headers["x-ratelimit-remaining-requests"] == "49"


def noted():
    """Return budgets whose bucket was read, and what they report of other processes."""
    budgets, reported = Budgets(StepClock(), OTHER), []
    budgets.follow_elsewhere(lambda _account, tokens, requests: reported.append((tokens, requests)))
    return budgets, reported


async def test_after_a_restored_bucket_nothing_is_given_back_and_what_others_use_is_taken_again():
    budgets, reported = noted()
    await budgets.note_bucket(Snapshot(None, frozenset()))
    await budgets.apply(ID, recorded(90, tokens=900), 40)
    await budgets.apply(ID, recorded(20, tokens=200), 7)  # as it was some time ago
    assert (budgets.used(ID), reported) == (200, [(900, 90)])
    await budgets.apply(ID, recorded(25, tokens=250), 8)
    assert reported[1:] == [(50, 5)]


async def test_an_own_addition_to_a_restored_record_gives_nothing_back():
    budgets, reported = noted()
    await budgets.note_bucket(Snapshot(None, frozenset()))
    await budgets.apply(ID, recorded(90, tokens=900), 40)
    budgets.add(ID, tokens=10, requests=1)
    budgets.note_recorded(budgets.next_record(ID, recorded(20, tokens=200), 10, 1), 8, 10, 1)
    await budgets.apply(ID, recorded(26, tokens=260), 9)
    assert (budgets.used(ID), reported) == (260, [(900, 90)])
    await budgets.apply(ID, recorded(30, tokens=300), 10)
    assert reported[1:] == [(40, 4)]


async def test_a_record_that_comes_late_is_not_a_restored_one():
    budgets, reported = noted()
    await budgets.note_bucket(Snapshot(None, frozenset()))
    await budgets.apply(ID, recorded(5, tokens=50), 1)
    budgets.add(ID, tokens=10, requests=1)
    budgets.note_recorded(budgets.next_record(ID, recorded(8, tokens=80), 10, 1), 3, 10, 1)
    await budgets.apply(ID, recorded(8, tokens=80), 2)
    assert (budgets.used(ID), reported) == (90, [(50, 5), (30, 3)])


async def test_a_list_of_models_is_a_request():
    gateway = world(requests_per_minute=2)
    answers = [await gateway.http.get(path, headers=BEARER) for path in ("/v1/models", "/v1/models/none", "/v1/models")]
    assert [answer.status_code for answer in answers] == [200, 404, 429]
    assert answers[0].headers["x-ratelimit-remaining-requests"] == "1"


async def test_strangers_leave_nothing_behind():
    """10,000 unknown keys have no allowance, no usage and no metric of their own."""
    gateway = world(requests_per_minute=60)
    before = len((await gateway.admin.get("/metrics/")).text.splitlines())
    for number in range(300):
        answer = await gateway.chat({"authorization": f"Bearer sk-slipway-{number:012x}-{'0' * 64}"})
        assert answer.status_code == 401
    assert gateway.budgets.unrecorded() == {}
    assert not gateway.callers._usage
    assert len((await gateway.admin.get("/metrics/")).text.splitlines()) <= before + 8
