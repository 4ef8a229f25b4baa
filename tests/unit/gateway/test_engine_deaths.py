"""What a gateway says of an engine's death: who had requests there, the same for all that the dead engine fails."""

import pytest

from services.gateway.engine_deaths import MOST_HOLDERS, QUIET_S, EngineDeaths, Sender
from testbed import factories as f
from tests.unit.gateway.bans import asked, kill_beside, quiet, world
from tests.unit.gateway.fakes import StepClock
from tests.unit.gateway.world import OTHER_KEY, OWN_KEYS


def begun(deaths, *names, endpoint="a:1", target=7):
    return [deaths.begin(endpoint, f.target(target), Sender(name, name)) for name in names]


def test_a_death_names_all_holders_at_the_endpoint_and_those_that_left_a_moment_ago():
    deaths = EngineDeaths(StepClock(), lambda: True)
    left, killed, beside = begun(deaths, "left", "killed", "beside")
    (other_target,) = begun(deaths, "other-target", target=6)
    (elsewhere,) = begun(deaths, "elsewhere", endpoint="b:1")
    killed.note_piece()
    left.end(complete=False)
    killed.note_death()
    assert killed.death == beside.death
    assert killed.death.holders == ("beside", "killed", "left", "other-target")
    assert (other_target.death, elsewhere.death) == (None, None)


@pytest.mark.parametrize("is_left", [False, True])
def test_whose_request_a_candidate_was_asked_unseen_was_there_and_is_not_refused(is_left):
    """Its body was at the process that both targets share; without a name it would explain the death by no caller."""
    reports, requests = [], []
    deaths = EngineDeaths(
        StepClock(),
        lambda: True,
        on_request=lambda _, sender: requests.append(sender.holder),
        on_death=lambda *death: reports.append(death),
    )
    (served,) = begun(deaths, "served")
    unseen = deaths.begin("a:1", f.target(8), Sender("unseen", "unseen"), shadow=True)
    if is_left:
        unseen.end(complete=False)
    served.note_piece()
    served.note_death()
    assert served.death.holders == ("served", "unseen")
    assert reports == [], "what the candidate may have done refuses no caller"
    assert requests == ["served", ""]


def test_the_death_of_a_candidate_in_its_shadow_refuses_no_caller_of_the_same_process():
    reports = []
    deaths = EngineDeaths(StepClock(), lambda: True, on_death=lambda *death: reports.append(death))
    begun(deaths, "served")
    unseen = deaths.begin("a:1", f.target(8), Sender("unseen", "unseen"), shadow=True)
    unseen.note_piece()
    unseen.note_death()
    assert unseen.death.holders == ("served", "unseen")
    assert reports == []


async def test_what_ended_by_a_death_or_long_ago_is_not_named_at_the_next_one():
    clock = StepClock()
    deaths = EngineDeaths(clock, lambda: True)
    first, beside, left = begun(deaths, "first", "beside", "left")
    first.note_piece()
    first.note_death()
    for attempt in (first, beside, left):
        attempt.end(complete=False)
    (early,) = begun(deaths, "early")
    early.note_piece()
    early.end(complete=False)
    await clock.pause(QUIET_S)
    (later,) = begun(deaths, "later")
    later.note_piece()
    later.note_death()
    assert later.death.holders == ("later",)


async def test_targets_that_die_of_one_cause_name_the_same_holders():
    clock, reports = StepClock(), []
    deaths = EngineDeaths(clock, lambda: True, on_death=lambda *death: reports.append(death))
    (killer,) = begun(deaths, "killer")
    (beside,) = begun(deaths, "beside", target=6)
    for attempt in (killer, beside):
        attempt.note_piece()
    killer.note_death()
    killer.end(complete=False)
    await clock.pause(1)
    beside.note_death()
    assert beside.death.holders == ("beside", "killer")
    assert [target for _, target, _, _ in reports] == [str(f.target(7)), str(f.target(6))]
    beside.end(complete=False)
    await clock.pause(QUIET_S)
    (later,) = begun(deaths, "later", target=6)
    later.note_piece()
    later.note_death()
    assert later.death.holders == ("later",)


async def test_who_had_requests_at_the_death_before_is_not_named_at_the_next_one_of_the_same_target():
    """A small engine is loaded again within the time in which deaths of several targets count as one."""
    clock = StepClock()
    deaths = EngineDeaths(clock, lambda: True)
    (first,) = begun(deaths, "first")
    first.note_piece()
    first.note_death()
    first.end(complete=False)
    await clock.pause(1)
    (later,) = begun(deaths, "later")
    later.note_piece()
    later.note_death()
    assert later.death.holders == ("later",)


def test_a_request_that_a_dead_engine_fails_is_of_the_last_death():
    deaths = EngineDeaths(StepClock(), lambda: True)
    (first,) = begun(deaths, "first")
    first.note_death()
    assert (first.death.holders, first.death.others) == ((), 1), "the engine was never seen alive"
    (second,) = begun(deaths, "second")
    second.note_death()
    assert second.death == first.death
    second.end(complete=False)
    first.note_piece()
    first.note_death()
    (later,) = begun(deaths, "later")
    later.note_death()
    assert later.death == first.death
    assert later.death.holders == ("first",)


def test_more_holders_than_are_named_are_counted():
    deaths = EngineDeaths(StepClock(), lambda: True)
    first, *_ = begun(deaths, *(f"key-{number}" for number in range(MOST_HOLDERS + 3)))
    first.note_piece()
    first.note_death()
    assert (len(first.death.holders), first.death.others) == (MOST_HOLDERS, 3)


async def test_telemetry_of_what_a_dead_engine_fails_names_the_death_and_the_holders():
    made = world(keys=(*OWN_KEYS, OTHER_KEY))
    await quiet(made)
    await kill_beside(made, "slow")
    failed = [record for record in made.records if record.error == "engine_dead"]
    assert len(failed) == 2
    assert len({record.death for record in failed}) == 1
    assert failed[0].death.holders == (failed[0].holder,), "both are of one key"
    assert all(record.death is None for record in made.records if record.error is None)


async def test_all_keys_of_a_team_are_one_holder_and_those_of_a_name_without_a_team():
    made = world(keys=(*OWN_KEYS, OTHER_KEY))
    caller = made.callers.authenticate([made.http.headers["authorization"]], "production")
    teamed = type(caller)(caller.key.model_copy(update={"team": "shop"}), caller.account, caller.teams)
    other = type(caller)(caller.key.model_copy(update={"team": "shop"}), "another", caller.teams)
    named = type(caller)(caller.key.model_copy(update={"key_id": "0" * 12}), "0" * 12, caller.teams)
    token = type(caller)(caller.key, "token-1", caller.teams)  # all tokens have one name
    assert caller.holder_pseudonym == named.holder_pseudonym != caller.pseudonym
    assert token.holder_pseudonym == token.pseudonym
    assert teamed.holder_pseudonym == other.holder_pseudonym != caller.pseudonym
    assert (await made.chat(**asked("hello"))).status_code == 200
